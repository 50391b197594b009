"""Names of the images in a batch that are not finite."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lit_cv.contracts import as_dataset

__all__ = ["SHOWN", "listed", "places_of_non_finite", "sample_names", "without_tensors"]

SHOWN = 8  # maximum number of images and weights named in a message


def _parts(batch: Any, dataset: Any) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield a batch and its nested batches, each with its name and the dataset that its `index` refers to."""
    if not isinstance(batch, Mapping):
        return
    yield "", batch, dataset
    for name, part in batch.items():
        if isinstance(part, Mapping):
            yield f"{name} ", part, getattr(dataset, str(name), None)


def without_tensors(batch: Any) -> Any:
    """Return the batch with only its `index` entries."""
    if not isinstance(batch, Mapping):
        return None
    nested = {name: without_tensors(part) for name, part in batch.items() if isinstance(part, Mapping)}
    return {**nested, "index": batch["index"]} if "index" in batch else nested


def sample_names(batch: Any, dataset: Any) -> list[str]:
    """Return the names of a batch's images, or their dataset positions if there are no names; [] without `index`."""
    names = []
    for prefix, part, owner in _parts(batch, dataset):
        index = part.get("index")
        if isinstance(index, Tensor):
            name = as_dataset(owner).sample_name or str
            names += [f"{prefix}{name(position)}" for position in index.flatten().tolist()]
    return names


def places_of_non_finite(batch: Any, dataset: Any) -> list[str]:
    """Return the entries of a batch with NaN or infinity, each with the name of its image."""
    places = []
    for prefix, part, owner in _parts(batch, dataset):
        names = sample_names({"index": part.get("index")}, owner)
        for key, values in part.items():
            rows = list(values) if isinstance(values, list | tuple) or (_is_tensor(values) and values.ndim) else []
            for k, row in enumerate(rows):
                if _is_tensor(row) and row.is_floating_point() and not torch.isfinite(row).all():
                    places.append(f"{prefix}{key} of {names[k] if len(names) == len(rows) else f'row {k}'}")
    return places


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor)


def listed(names: Sequence[str]) -> str:
    """Return the first names joined by commas, and the number of further ones."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
