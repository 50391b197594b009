"""`lit-cv agreement`: the agreement of annotators, and the consensus of their labels."""

import os
from pathlib import Path

from datamodules import CSVDataModule
from lit_cv.annotations.annotators import Consolidation
from lit_cv.atomic_files import describe_path, next_free_path
from lit_cv.cli.convert import OneLineParser
from lit_cv.printable import printable

__all__ = ["agreement", "run"]


def agreement(
    path: str,
    out: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    annotator_column: str = "annotator",
    consensus: Consolidation = "dawid_skene",
    escape_formulas: bool = False,
) -> None:
    """Measure how well several annotators agree, and write the consensus labels, most disputed images first.

    Args:
        path: Table with one row per image and annotator.
        out: Table to write, with the class of each image, its probability, the agreement and the votes. It must not
            exist yet; `None` writes `consensus.csv`, or `consensus_N.csv` with the next free number.
        path_column: Column of the images.
        label_column: Column of the classes.
        annotator_column: Column of the annotators.
        consensus: `majority` and `soft` use the fractions of the votes, `dawid_skene` weights the annotators.
        escape_formulas: Whether to put an apostrophe before names of images and classes that a spreadsheet would
            evaluate as formulas (`=...`, `+...`, `-...`, `@...`). `CSVDataModule` removes it when it reads them.
    """
    if out is not None and os.path.lexists(out):
        raise ValueError(
            f"{printable(out, lines=False)} already exists and may hold corrections: choose another name (--out)."
        )
    votes = CSVDataModule(
        path,
        path_column=path_column,
        label_columns=[label_column],
        annotator_column=annotator_column,
        consensus=consensus,
    ).read_votes()
    table = next_free_path(Path("consensus.csv")) if out is None else Path(out)
    print(votes.summary(f" (all are in {printable(str(table), lines=False)})"))
    for name, accuracy in zip(votes.annotators, votes.consensus.accuracy, strict=True):
        print(f"  {printable(name, lines=False)}: {100 * accuracy:.1f} % of the votes agree with the consensus")
    votes.write(table, escape_formulas)
    print(f"Written: {printable(describe_path(table, Path(out or 'consensus.csv')), lines=False)}")


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    agreement(**OneLineParser("agreement", agreement).read(args))
