"""Named votes of annotators on named images."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_cv.annotations.annotators import Consensus, Consolidation, Floats, consolidate
from lit_cv.atomic_files import atomic_write
from lit_cv.printable import printable
from lit_cv.spreadsheet import escape_formula

__all__ = ["Votes"]

_SHOWN = 5  # disputed images listed in a message


class Votes:
    """Named votes on named images, and their consensus.

    Args:
        images: Names of the images.
        annotators: Names of the annotators.
        classes: Names of the classes.
        consensus: Consensus of the votes.
    """

    def __init__(
        self, images: Sequence[str], annotators: Sequence[str], classes: Sequence[str], consensus: Consensus
    ) -> None:
        self.images, self.annotators, self.classes = list(images), list(annotators), list(classes)
        self.consensus = consensus
        self._labels = consensus.labels
        self._position = {name: position for position, name in enumerate(self.images)}

    @classmethod
    def of(
        cls,
        images: Sequence[str],
        cast: Sequence[tuple[str, str, str]],
        classes: Sequence[str],
        method: Consolidation = "majority",
    ) -> "Votes":
        """Count votes.

        Args:
            images: Names of all images, including those without votes.
            cast: Image, annotator and class of each vote, by name.
            classes: Names of the classes.
            method: See `consolidate`.

        Raises:
            ValueError: If a vote has no annotator.

        Example:
            >>> cast = [("a", "Ann", "cat"), ("a", "Bob", "dog"), ("b", "Ann", "cat")]
            >>> print(Votes.of(["a", "b"], cast, ["cat", "dog"]))
            3 votes of 2 annotators on 2 images, Fleiss' kappa -1.00, 1 images disputed:
              a: cat 1, dog 1
        """
        if anonymous := [image for image, annotator, _ in cast if not annotator]:
            raise ValueError(f"{len(anonymous)} votes have no annotator, the first one is for {anonymous[0]!r}.")
        annotators = sorted({annotator for _, annotator, _ in cast})
        of_image = {name: position for position, name in enumerate(images)}
        of_annotator = {name: position for position, name in enumerate(annotators)}
        of_class = {name: position for position, name in enumerate(classes)}
        consensus = consolidate(
            [of_image[image] for image, _, _ in cast],
            [of_annotator[annotator] for _, annotator, _ in cast],
            [of_class[label] for _, _, label in cast],
            (len(images), len(annotators), len(classes)),
            method,
        )
        return cls(images, annotators, classes, consensus)

    def label(self, image: str, soft: bool = False) -> int | Floats:
        """Return the class of an image, or its probabilities if `soft`; -1 or a row of -1 without votes."""
        position = self._position[image]
        if not soft:
            return int(self._labels[position])
        row: Floats = self.consensus.probabilities[position]
        return row if row.any() else np.full_like(row, -1)

    def describe(self, position: int) -> str:
        """Return an image's votes as text."""
        votes = self.consensus.votes[position]
        order = np.argsort(-votes, kind="stable")
        return ", ".join(f"{printable(self.classes[k], lines=False)} {votes[k]}" for k in order if votes[k])

    def __str__(self) -> str:
        return self.summary(" (`lit-cv agreement` writes a table of all)")

    def summary(self, where: str = "") -> str:
        """Return a summary of the annotators' agreement and the most disputed images.

        Args:
            where: Text after the number of omitted images that says where to find them.
        """
        consensus, disputed = self.consensus, self.consensus.disputed
        kappa = f"{consensus.kappa:.2f}"
        if np.isnan(consensus.kappa):
            kappa = "undefined (it needs images with two votes, and two classes)"
        lines = [
            f"{int(consensus.votes.sum())} votes of {len(self.annotators)} annotators on {len(self.images)} images, "
            f"Fleiss' kappa {kappa}, {len(disputed)} images disputed{':' if len(disputed) else '.'}"
        ]
        lines += [
            f"  {printable(self.images[position], lines=False)}: {self.describe(position)}"
            for position in disputed[:_SHOWN]
        ]
        if len(disputed) > _SHOWN:
            lines.append(f"  and {len(disputed) - _SHOWN} more{where}")
        return "\n".join(lines)

    def write(self, path: Path, escape_formulas: bool = False) -> None:
        """Write a table of all images, the most disputed first: class, its probability, agreement and votes.

        Classes can be corrected in the table before `CSVDataModule` reads it.

        Args:
            path: The table.
            escape_formulas: Whether to prefix names that a spreadsheet would evaluate with an apostrophe.
        """
        shown = escape_formula if escape_formulas else str
        path.parent.mkdir(parents=True, exist_ok=True)
        consensus = self.consensus
        with (
            atomic_write(path, "the table") as part,
            open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["path", "label", "probability", "agreement", *(f"votes_{name}" for name in self.classes)])
            for position in np.argsort(consensus.agreement, kind="stable"):
                label = self._labels[position]
                name = self.classes[label] if label >= 0 else ""
                numbers = (f"{consensus.probabilities[position, label]:.4f}", f"{consensus.agreement[position]:.4f}")
                writer.writerow(
                    [shown(self.images[position]), shown(name), *numbers, *consensus.votes[position].tolist()]
                )
