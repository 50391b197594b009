from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_cv import AlternatingFlip
from lit_cv.callbacks.alternating_flip import first_half


def flipped(epoch: int, index: torch.Tensor, seed: int = 0, **entries: Any) -> dict[str, Any]:
    """Return a batch after the callback; its images are a row of 0, 1, 2."""
    row = torch.arange(3, dtype=torch.uint8).view(1, 1, 1, 3)
    batch = {"image": row.repeat(len(index), 1, 1, 1), "index": index, **entries}
    trainer: Any = SimpleNamespace(current_epoch=epoch)
    module: Any = SimpleNamespace(seed=seed)
    AlternatingFlip().on_train_batch_start(trainer, module, batch, 0)
    return batch


def test_two_epochs_show_both_orientations() -> None:
    index = torch.arange(400)
    first, second, third = (flipped(epoch, index)["image"] for epoch in range(3))
    assert torch.equal(first, second.flip(3))
    assert torch.equal(first, third)
    assert 150 < int((first[:, 0, 0, 0] == 2).sum()) < 250


def test_choice_depends_on_seed_and_image_alone() -> None:
    index = torch.arange(400)
    assert torch.equal(first_half(index, 3)[[7, 250]], first_half(torch.tensor([7, 250]), 3))
    agreement = (first_half(index, 0) == first_half(index, 1)).float().mean()
    assert 0.35 < float(agreement) < 0.65


def test_masks_are_flipped_with_the_images() -> None:
    mask = torch.arange(3).view(1, 1, 3).repeat(8, 1, 1)
    batch = flipped(0, torch.arange(8), mask=mask)
    assert torch.equal(batch["mask"], batch["image"][:, 0].long())


def test_error_names_missing_index() -> None:
    batch = {"image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}
    trainer: Any = SimpleNamespace(current_epoch=0)
    module: Any = SimpleNamespace(seed=0)
    with pytest.raises(TypeError, match="without the entry 'index'"):
        AlternatingFlip().on_train_batch_start(trainer, module, batch, 0)
