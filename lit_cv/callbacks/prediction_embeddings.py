"""Image embeddings as an array file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_cv.atomic_files import atomic_write

__all__ = ["EmbeddingFile"]

Part = tuple[Tensor, Tensor]


class EmbeddingFile:
    """Collects embeddings and writes them as a NumPy archive.

    `parts` holds for each batch the dataset positions (N,) of its images and their embeddings (N, D).
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, embedding: Tensor, index: Tensor) -> None:
        """Add the embeddings (N, D) of a batch."""
        self.parts.append((index, embedding.detach().float().cpu()))

    def write(
        self, path: Path, parts: Sequence[Part], samples: Mapping[int, str], labels: Tensor | None = None
    ) -> tuple[int, int]:
        """Write arrays `embedding` (N, D) float32, `image` with the N names, and optionally `label`, in dataset order.

        Args:
            path: Output file, `.npz`.
            parts: `parts` of all ranks.
            samples: Name of each image by its position in the dataset.
            labels: Labels of the dataset, -1 if unknown.

        Returns:
            Number of images and dimension of the embeddings.
        """
        index = torch.cat([part[0] for part in parts]).numpy()
        # Drops repeated images that pad the last batches of several ranks.
        order, first = np.unique(index, return_index=True)
        embedding = torch.cat([part[1] for part in parts]).numpy()[first]
        content = {"embedding": embedding, "image": np.array([samples[int(number)] for number in order])}
        if labels is not None:
            content["label"] = labels.numpy()[order]
        with atomic_write(path, "the embeddings") as part, open(part, "wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]
        return len(embedding), embedding.shape[1]
