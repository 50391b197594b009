from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_cv import ProgressiveResizing


def resized(callback: ProgressiveResizing, epoch: int, batch: dict[str, Any]) -> dict[str, Any]:
    trainer: Any = SimpleNamespace(current_epoch=epoch, max_epochs=10)
    module: Any = None
    callback.on_train_batch_start(trainer, module, batch, 0)
    return batch


def test_images_grow_to_full_size() -> None:
    callback = ProgressiveResizing(start=0.5, until=0.5)
    shapes = []
    for epoch in range(7):
        batch = {"image": torch.full((2, 3, 32, 64), 7, dtype=torch.uint8)}
        image = resized(callback, epoch, batch)["image"]
        assert image.dtype == torch.uint8
        assert bool((image == 7).all())
        shapes.append(tuple(image.shape[2:]))
    assert shapes == [(16, 32), (20, 40), (24, 44), (24, 52), (28, 56), (32, 64), (32, 64)]


@pytest.mark.parametrize(("name", "value"), [("start", 0.0), ("until", 1.5), ("multiple", 0)])
def test_error_names_option(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ProgressiveResizing(**options)


def test_masks_are_refused() -> None:
    batch = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "mask": torch.zeros(1, 8, 8, dtype=torch.int64)}
    with pytest.raises(TypeError, match="masks or boxes"):
        resized(ProgressiveResizing(), 0, batch)
