"""Masks and boxes move with the pixels."""

import pytest
import torch
from torch import Tensor

from lit_cv.augment import Chain, RandAugment, build_operations
from lit_cv.augment.geometry import move_boxes

MOVES = [
    {"name": "random_crop", "padding": 6},
    {"name": "random_crop", "padding": 6, "fill": "reflect", "size": [40, 32]},
    {"name": "random_crop", "padding": 6, "fill": "edge"},
    {"name": "horizontal_flip"},
    {"name": "vertical_flip", "p": 1.0},
    {"name": "random_resized_crop", "size": [36, 44], "scale": [0.3, 1.0]},
    {"name": "affine", "degrees": 40, "translate": 0.1, "scale": [0.8, 1.3], "shear": 15},
    {"name": "affine", "degrees": 40, "fill": "reflect"},
    {"name": "affine", "degrees": 40, "fill": "edge"},
    {"name": "rand_augment", "num_operations": 2, "magnitude": 20},
]


def scenes(n: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return black images with a white rectangle each, and its mask and box."""
    masks = torch.zeros(n, 48, 40, dtype=torch.int64)
    boxes = []
    for i in range(n):
        y, x = int(torch.randint(4, 20, ())), int(torch.randint(4, 16, ()))
        masks[i, y : y + 18, x : x + 14] = 1
        boxes.append(torch.tensor([[x, y, x + 14, y + 18]], dtype=torch.float32))
    return masks[:, None].float().expand(-1, 3, -1, -1).contiguous(), masks, boxes


@pytest.mark.parametrize("move", MOVES, ids=lambda move: "-".join(map(str, move.values())))
def test_masks_and_boxes_follow_image(move: dict[str, object]) -> None:
    torch.manual_seed(0)
    images, masks, boxes = scenes(40)
    chain = build_operations([move])
    params = chain.draw(images)
    if move["name"] == "rand_augment":  # keeps the values, so that the rectangle can be located
        kind = params["0.kind"]
        params["0.kind"] = torch.where(kind < 5, kind, 13)
    moved = chain.apply(images, params)[:, 0]
    followed = chain.move_masks(masks, params)
    assert followed.shape == moved.shape
    assert followed.dtype == torch.int64
    assert set(followed.unique().tolist()) <= {0, 1, 255}
    clear = (moved < 0.05) | (moved > 0.95)
    agree = (followed == 1) == (moved > 0.5)
    assert agree[clear].float().mean() > 0.995
    places, kept = chain.move_boxes(boxes, params, (48, 40), min_visible=0.0)
    reflected = move.get("fill") in ("reflect", "edge")
    for mask, place, keep in zip(followed, places, kept, strict=True):
        ones = (mask == 1).nonzero()
        if len(ones) == 0 or reflected:  # a reflected rectangle has no box
            continue
        assert keep.tolist() == [True]
        top, left = ones.amin(0).tolist()
        bottom, right = (ones.amax(0) + 1).tolist()
        assert (place[0] - torch.tensor([left, top, right, bottom])).abs().max() <= 2.0


def test_chain_of_flips_and_crops_is_exact() -> None:
    images, masks, _ = scenes(16)
    chain = build_operations(["horizontal_flip", {"name": "random_crop", "padding": 4}, "vertical_flip", "cutout"])
    params = chain.draw(images)
    followed = chain.move_masks(masks, params, fill=0)
    flip = Chain(chain.operations[:3])
    own = {name: value for name, value in params.items() if not name.startswith("3.")}
    assert torch.equal(followed.float(), flip.apply(images, own)[:, 0])


@pytest.mark.parametrize("move", MOVES, ids=lambda move: "-".join(map(str, move.values())))
def test_object_masks_move_like_masks(move: dict[str, object]) -> None:
    torch.manual_seed(0)
    images, masks, _ = scenes(12)
    chain = build_operations(["vertical_flip", move])
    params = chain.draw(images)
    objects = [torch.stack([mask == 1, mask == 0])[: i % 3] for i, mask in enumerate(masks)]
    moved = chain.move_object_masks(objects, params)
    expected = chain.move_masks(masks, params)
    for i, (each, mask) in enumerate(zip(moved, expected, strict=True)):
        assert torch.equal(each, torch.stack([mask == 1, mask == 0])[: i % 3])


def test_boxes_outside_image_are_dropped() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [15.0, 15.0, 25.0, 25.0]])
    shift = torch.tensor([[[1.0, 0.0, 12.0], [0.0, 1.0, 0.0]]])  # the result shows pixels from 12 further right
    moved, kept = move_boxes([boxes], shift, (40, 40))
    assert kept[0].tolist() == [False, True, True]
    torch.testing.assert_close(moved[0], torch.tensor([[8.0, 20.0, 18.0, 30.0], [3.0, 15.0, 13.0, 25.0]]))
    shift[0, 0, 2] = 22.0
    moved, kept = move_boxes([boxes], shift, (40, 40), min_visible=0.5)
    assert kept[0].tolist() == [False, True, False]
    torch.testing.assert_close(moved[0], torch.tensor([[0.0, 20.0, 8.0, 30.0]]))
    empty, none = move_boxes([torch.zeros(0, 4)], shift, (40, 40))
    assert empty[0].shape == (0, 4)
    assert none[0].shape == (0,)


def test_transforms_compose_in_order() -> None:
    operation = RandAugment(num_operations=2)
    params = {"kind": torch.tensor([[4, 2]]), "strength": torch.tensor([[90.0, 5.0]])}  # rotate, then shift right
    maps = operation.matrices(params, (20, 20))
    # (x, y) in the result was at (x - 5, y) after the rotation, which moved it there from:
    x, y = 12.0, 4.0
    before = (maps[0] @ torch.tensor([x, y, 1.0])).tolist()
    assert before == pytest.approx([y, 20 - (x - 5)], abs=1e-4)
