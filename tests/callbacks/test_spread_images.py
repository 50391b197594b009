"""Selection of validation images."""

from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch

from lit_cv.callbacks.spread_images import _joined, spread_rows


def chosen(sizes: list[int], n: int, loader: Any = None, batches: float | None = None) -> list[int]:
    """Return the positions in the set of the rows that are chosen in its batches."""
    trainer = SimpleNamespace(num_val_batches=[batches or len(sizes)], val_dataloaders=loader)
    positions = []
    for index, size in enumerate(sizes):
        rows = spread_rows(cast(L.Trainer, trainer), size, index, n)
        assert all(0 <= row < size for row in rows)
        positions += [sum(sizes[:index]) + row for row in rows]
    return positions


@pytest.mark.parametrize("wrap", [lambda loader: loader, lambda loader: [loader]])
@pytest.mark.parametrize(
    ("sizes", "n", "expected"),
    [
        ([32, 32, 32], 4, [12, 36, 60, 84]),
        ([32, 1], 4, [4, 12, 20, 28]),
        ([4, 4], 8, list(range(8))),
        ([4, 4, 1], 100, list(range(9))),  # fewer images than wanted
        ([4] * 25, 2, [25, 75]),
    ],
)
def test_images_are_spread_over_the_set(sizes: list[int], n: int, expected: list[int], wrap: Any) -> None:
    loader = SimpleNamespace(batch_size=sizes[0], sampler=range(sum(sizes)))
    assert chosen(sizes, n, wrap(loader)) == expected


def test_limited_validation_is_its_own_set() -> None:
    loader = SimpleNamespace(batch_size=4, sampler=range(1000))
    assert chosen([4, 4], 2, loader) == [2, 6]


def test_loader_without_sizes() -> None:
    assert chosen([10, 10, 10, 10], 2) == [10, 30]
    assert chosen([10, 10], 4) == [2, 7, 12, 17]
    assert chosen([10, 10], 2, batches=float("inf")) == [2, 7]


def test_smaller_images_are_padded() -> None:
    def item(height: int, width: int) -> dict[str, Any]:
        return {
            "image": [torch.ones(3, height, width)],
            "mask": [torch.ones(height, width, dtype=torch.int64)],
            "boxes": [torch.zeros(height, 4)],
            "label": [torch.tensor(height)],
        }

    batch = _joined([item(2, 5), item(4, 3) | {"extra": [1]}])
    assert batch.keys() == {"image", "mask", "boxes", "label"}
    assert batch["image"].shape == (2, 3, 4, 5)
    assert batch["image"].sum((1, 2, 3)).tolist() == [30, 36]
    assert batch["mask"][0, :2].eq(1).all()
    assert batch["mask"][0, 2:].eq(255).all()
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 4]
    assert batch["label"].tolist() == [2, 4]
