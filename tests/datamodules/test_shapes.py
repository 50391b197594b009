import math
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ShapesDataModule, ShapesDataset
from datamodules.shape_drawing import DISTANCES
from datamodules.shape_scenes import CLASSES, DOMAINS, _uniform


def dataset(count: int = 40, size: int = 48, domain: Any = "filled", shapes: int = 3, seed: int = 0) -> ShapesDataset:
    return ShapesDataset(count, size, domain, shapes, "all", seed)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, list):
            assert all(torch.equal(x, y) for x, y in zip(value, b[name], strict=True))
        else:
            assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_image_depends_only_on_its_number(domain: str) -> None:
    whole = dataset(domain=domain).__getitems__([7, 3, 31])
    for count in (32, 40):  # alone, in another batch, in a dataset of another length
        other = dataset(count, domain=domain)
        other.__getitems__([5, 31])
        assert_same({**other.__getitems__([7, 3, 31])}, whole)
    lazily = dataset(domain=domain)
    lazily.in_memory = False
    assert_same(lazily.__getitems__([7, 3, 31]), whole)


def test_seeds_and_domains_differ() -> None:
    pictures = [dataset(4, seed=seed).__getitems__([0])["image"] for seed in (0, 1)]
    pictures += [dataset(4, domain=domain).__getitems__([0])["image"] for domain in DOMAINS[1:]]
    for i, a in enumerate(pictures):
        assert all((a.float() - b.float()).abs().mean() > 5 for b in pictures[:i])


@pytest.mark.parametrize("domain", DOMAINS)
def test_targets_agree(domain: str) -> None:
    batch = dataset(60, domain=domain).__getitems__(list(range(60)))
    assert batch["image"].shape == (60, 3, 48, 48)
    assert batch["mask"].dtype == torch.int64
    counts = set()
    for mask, boxes, labels, label in zip(
        batch["mask"], batch["boxes"], batch["box_labels"], batch["label"], strict=True
    ):
        counts.add(len(boxes))
        assert labels[0] == label
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides >= 2).all()
        assert (boxes >= 0).all()
        assert (boxes <= 48).all()
        ys, xs = (mask == label + 1).nonzero().unbind(1)
        if not (labels[1:] == label).any():  # the largest shape is on top, so it is fully visible
            assert boxes[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert set(mask.unique().tolist()) <= {0, *(labels + 1).tolist()}
    assert counts == {1, 2, 3}


def test_classes_are_balanced() -> None:
    counts = torch.bincount(dataset(4000).labels, minlength=len(CLASSES))
    assert (counts - 500).abs().max() < 5 * math.sqrt(500)


# Areas of the shapes in the unit circle, by elementary geometry.
AREAS = {
    "circle": math.pi * 0.95**2,
    "square": 1.44**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 10 * 0.5 * math.sin(math.pi / 5) * (math.cos(2 * math.pi / 5) / math.cos(math.pi / 5)),
    "cross": 2 * 1.84 * 0.6 - 0.6**2,
    "ring": math.pi * (0.97**2 - 0.47**2),
}


@pytest.mark.parametrize("name", AREAS)
def test_areas(name: str) -> None:
    line = (torch.arange(1000) + 0.5) / 500 - 1
    inside = DISTANCES[name](line[None, :].expand(1000, -1), line[:, None].expand(-1, 1000)) < 0
    assert float(inside.float().mean()) * 4 == pytest.approx(AREAS[name], rel=5e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_are_inside_unit_circle(name: str) -> None:
    angle = torch.linspace(0, 2 * math.pi, 721)
    assert (DISTANCES[name](1.03 * angle.cos(), 1.03 * angle.sin()) > 0).all()


def test_random_numbers_are_uniform_and_independent() -> None:
    numbers = _uniform(np.arange(3000), 1, np.arange(4, dtype=np.uint64)).astype(np.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.08
    assert np.abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.08


def test_classes_are_not_linearly_separable() -> None:
    """Neither color nor position reveals the class: the mean image of each class is about the same."""
    batch = dataset(1600, size=24, shapes=1).__getitems__(list(range(1600)))
    means = torch.stack([batch["image"][batch["label"] == label].float().mean(0) for label in range(len(CLASSES))])
    assert (means.mean((1, 2, 3)) - means.mean()).abs().max() < 12


def test_masks_of_shapes_partition_the_class_mask() -> None:
    options = {"num_images": 40, "image_size": 32, "domain": "filled", "shapes_per_image": 4, "seed": 3}
    instances, everything = (ShapesDataset(targets=kind, **options) for kind in ("instances", "all"))  # type: ignore[arg-type]
    batch, expected = instances.__getitems__(list(range(40))), everything.__getitems__(list(range(40)))
    for masks, labels, boxes, mask in zip(
        *(batch[k] for k in ("masks", "box_labels", "boxes")), expected["mask"], strict=True
    ):
        assert masks.dtype == torch.bool
        assert torch.equal((masks * (labels + 1)[:, None, None]).sum(0), mask)
        for shape, box in zip(masks, boxes, strict=True):
            ys, xs = shape.nonzero().unbind(1)
            assert (xs.min() >= box[0]) & (ys.min() >= box[1]) & (xs.max() < box[2]) & (ys.max() < box[3])
        ys, xs = masks[0].nonzero().unbind(1)  # the first shape is on top
        assert boxes[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_only_requested_targets() -> None:
    boxes = {"boxes", "box_labels"}
    for targets, keys in {"label": set(), "mask": {"mask"}, "boxes": boxes, "instances": boxes | {"masks"}}.items():
        data = ShapesDataModule(image_size=24, num_images=20, targets=targets)  # type: ignore[arg-type]
        data.setup()
        assert set(data.train_dataset.__getitems__([0])) == {"image", "label", "index"} | keys
        assert (len(data.train_dataset), len(data.val_dataset or []), len(data.test_dataset or [])) == (16, 2, 2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"domain": "dotted"}, "filled, outlined"),
        ({"image_size": 8}, "at least 16"),
        ({"shapes_per_image": 0}, "1 to 8"),
        ({"targets": "masks"}, "label, boxes, mask, all, instances"),
    ],
)
def test_arguments_out_of_range(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesDataModule(**kwargs)
