from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_cv import WeakStrongAugmentation

MIRROR = [{"name": "horizontal_flip", "p": 1.0}]
TURN = [{"name": "vertical_flip", "p": 1.0}]


def batch() -> dict[str, Any]:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    return {
        "source": {"image": images.clone(), "label": torch.zeros(2)},
        "target": {"image": images + 100, "index": torch.arange(2)},
    }


@pytest.mark.parametrize("source", ["weak", "strong"])
def test_views_of_each_domain(source: str) -> None:
    augmented, before = batch(), batch()
    WeakStrongAugmentation(MIRROR, TURN, source=source).on_train_batch_start(None, None, augmented, 0)
    assert torch.equal(augmented["target"]["image"], before["target"]["image"].flip(3))
    assert torch.equal(augmented["target"]["strong"], before["target"]["image"].flip(2))
    assert torch.equal(augmented["source"]["image"], before["source"]["image"].flip(3 if source == "weak" else 2))
    assert set(augmented["source"]) == {"image", "label"}


@pytest.mark.parametrize("source", ["weak", "strong", None])
def test_unlabeled_images_of_a_batch_get_both_views(source: Any) -> None:
    images = torch.arange(4 * 16, dtype=torch.uint8).view(4, 1, 4, 4)
    augmented = {"image": images.clone(), "label": torch.tensor([-1, 2, -1, 0])}
    WeakStrongAugmentation(MIRROR, TURN, source=source).on_train_batch_start(None, None, augmented, 0)
    assert torch.equal(augmented["strong"], images[[0, 2]].flip(2))
    assert torch.equal(augmented["image"][[0, 2]], images[[0, 2]].flip(3))
    assert torch.equal(augmented["image"][[1, 3]], images[[1, 3]].flip(2 if source == "strong" else 3))


def test_no_operations_keep_images() -> None:
    augmented, before = batch(), batch()
    WeakStrongAugmentation([], TURN).on_train_batch_start(None, None, augmented, 0)
    assert torch.equal(augmented["target"]["image"], before["target"]["image"])


def test_errors() -> None:
    with pytest.raises(TypeError, match="neither an `image` and a `label` nor images of a `source`"):
        WeakStrongAugmentation().on_train_batch_start(None, None, {"image": torch.zeros(2, 1, 4, 4)}, 0)
    with pytest.raises(ValueError, match="source='both'"):
        WeakStrongAugmentation(source="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy='smal_images': there is no such policy"):
        WeakStrongAugmentation(weak="smal_images")
    crop = [{"name": "random_crop", "size": 2}]
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(2, 2\)"):
        WeakStrongAugmentation([], crop, source="weak").on_train_batch_start(None, None, batch(), 0)


def test_views_have_image_size_of_data() -> None:
    callback, augmented = WeakStrongAugmentation("small_images", "photographs", source="weak"), batch()
    callback.setup(SimpleNamespace(datamodule=SimpleNamespace(image_size=(3, 3))), None, "fit")  # type: ignore[arg-type]
    callback.on_train_batch_start(None, None, augmented, 0)
    views = augmented["source"]["image"], augmented["target"]["image"], augmented["target"]["strong"]
    assert {tuple(view.shape[2:]) for view in views} == {(3, 3)}
