"""Embeddings of images as an array."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_cv.atomic_files import atomic_write

__all__ = ["EmbeddingFile"]

Part = tuple[Tensor, Tensor]


class EmbeddingFile:
    """Collects embeddings, to write them as an array that NumPy opens.

    `parts` holds for each batch the images' positions in the dataset (N,) and their embeddings (N, D).
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, embedding: Tensor, index: Tensor) -> None:
        """Take in the embeddings (N, D) of a batch."""
        self.parts.append((index, embedding.detach().float().cpu()))

    def write(
        self, path: Path, parts: Sequence[Part], samples: Mapping[int, str], labels: Tensor | None = None
    ) -> tuple[int, int]:
        """Write `embedding` (N, D) float32, `image`, the N names, and the labels as `label`, in the dataset's order.

        Args:
            path: The file, `.npz`.
            parts: What all processes have collected.
            samples: Name of each image by its position in the dataset.
            labels: Labels of the dataset, -1 where unknown.

        Returns:
            Number of images and size of an embedding.
        """
        index = torch.cat([part[0] for part in parts]).numpy()
        # Images that pad the last batches of several processes fall together here.
        order, first = np.unique(index, return_index=True)
        embedding = torch.cat([part[1] for part in parts]).numpy()[first]
        content = {"embedding": embedding, "image": np.array([samples[int(number)] for number in order])}
        if labels is not None:
            content["label"] = labels.numpy()[order]
        with atomic_write(path, "the embeddings") as part, open(part, "wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]
        return len(embedding), embedding.shape[1]
