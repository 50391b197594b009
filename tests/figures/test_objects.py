import pytest
import torch

from lit_cv.figures import class_color, draw_objects, image_grid, mask_legend, object_titles, render

pytestmark = pytest.mark.draws


def test_boxes_have_position_and_color_of_class() -> None:
    images = torch.full((2, 3, 400, 500), 128, dtype=torch.uint8)
    boxes = [torch.tensor([[50.0, 60, 250, 300]]), torch.zeros(0, 4)]
    drawn = draw_objects(images, boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)], box_classes=["a", "b"])
    assert drawn.shape == images.shape
    for y, x in ((200, 50), (200, 250), (60, 240), (300, 100)):
        assert tuple(drawn[0, :, y, x].tolist()) == class_color(1)
    assert (drawn[0, :, 120:290, 60:240] == 128).all()  # below the name
    assert not (drawn[0, :, 62:80, 52:70] == 128).all()  # the name
    assert torch.equal(drawn[1], images[1])


def test_small_images_and_boxes_are_enlarged() -> None:
    drawn = draw_objects(torch.zeros(1, 1, 32, 64), [torch.tensor([[10.0, 5, 40, 25]])], [torch.tensor([0])])
    assert drawn.shape == (1, 3, 192, 384)
    assert tuple(drawn[0, :, 100, 60].tolist()) == class_color(0)
    empty = draw_objects(torch.zeros(1, 3, 64, 64), [torch.tensor([[9.0, 9, 9, 5]])], scores=[torch.tensor([0.5])])
    assert empty.shape == (1, 3, 384, 384)  # an empty box is drawn without an error


def test_masks() -> None:
    mask = torch.zeros(1, 400, 400, dtype=torch.int64)
    mask[:, :100] = 2
    mask[:, 300:] = 255
    images = torch.full((1, 3, 400, 400), 200, dtype=torch.uint8)
    drawn = draw_objects(images, mask=mask, mask_classes=["background", "x", "b"], box_classes=["a", "b"], opacity=1.0)
    assert tuple(drawn[0, :, 50, 50].tolist()) == class_color(1)  # the color of boxes of that class
    assert (drawn[0, :, 100:] == 200).all()
    drawn = draw_objects(images, mask=mask, mask_classes=["sky", "sea", "land"])
    assert not (drawn[0, :, 200] == 200).all()  # class 0 is not the background here


def test_masks_of_objects_have_colors_of_classes() -> None:
    images = torch.full((2, 3, 96, 96), 200, dtype=torch.uint8)
    masks = [torch.zeros(2, 96, 96, dtype=torch.bool), torch.zeros(0, 96, 96, dtype=torch.bool)]
    masks[0][0, 20:40, 20:40] = masks[0][1, 60:80, 20:40] = True
    boxes = [torch.tensor([[10.0, 10, 50, 45], [10, 55, 50, 90]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1, 3]), torch.zeros(0, dtype=torch.int64)]
    drawn = draw_objects(images, boxes, labels, opacity=1.0, object_masks=masks)
    assert tuple(drawn[0, :, 120, 120].tolist()) == class_color(1)
    assert tuple(drawn[0, :, 280, 120].tolist()) == class_color(3)
    assert (drawn[0, :, 130, 190] == 200).all()
    assert (drawn[1] == 200).all()


def test_last_of_overlapping_objects_is_on_top() -> None:
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 20:60], masks[1, 40:80] = True, True
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
    drawn = draw_objects(torch.zeros(1, 3, 96, 96), [boxes], [torch.tensor([1, 3])], opacity=0.5, object_masks=[masks])
    rows = {30: 1, 50: 3, 70: 3}
    for row, label in rows.items():
        expected = torch.tensor(class_color(label)) / 2
        assert (drawn[0, :, 4 * row, 200] - expected).abs().max() <= 1


def test_titles() -> None:
    labels = [torch.tensor([0, 1, 1]), torch.zeros(0, dtype=torch.int64)]
    boxes = [torch.zeros(3, 4), torch.zeros(0, 4)]
    assert object_titles(boxes, labels, None, ["a", "b"], count=2) == ["2 b, 1 a", "no objects"]
    mask = torch.tensor([[[0, 2, 255]]])
    assert object_titles(None, None, mask, mask_classes=["x", "y", "z"], count=1) == ["x, z"]


def test_incomplete_titles_end_with_ellipsis() -> None:
    kinds = torch.arange(5)
    boxes = [torch.zeros(5, 4), torch.zeros(4, 4)]
    assert object_titles(boxes, [kinds, kinds[:4]], None, list("abcde"), count=2) == [
        "1 a, 1 b, 1 c, 1 d, …",
        "1 a, 1 b, 1 c, 1 d",
    ]
    mask = torch.arange(6).view(1, 1, 6)
    assert object_titles(None, None, mask, mask_classes=list("abcdef"), count=1) == ["a, b, c, d, e, …"]


def test_legend_has_colors_of_masks() -> None:
    mask = torch.tensor([0, 2, 3, 255]).repeat(400, 100)[None]
    classes = {"mask_classes": ["background", "x", "b", "c"], "box_classes": ["a", "b"]}
    legend = mask_legend([None, mask, torch.full((1, 2, 2), 2)], **classes)
    assert [name for name, _ in legend] == ["b", "c"]
    drawn = draw_objects(torch.zeros(1, 3, 400, 400), mask=mask, opacity=1.0, **classes)  # type: ignore[arg-type]
    assert [color for _, color in legend] == [
        "#" + "".join(f"{value:02x}" for value in drawn[0, :, 0, column].tolist()) for column in (1, 2)
    ]
    assert mask_legend([torch.tensor([[[0, 7, 255]]])]) == [("7", mask_legend([torch.tensor([[[7]]])])[0][1])]


@pytest.mark.parametrize("entries", [1, 7, 40])
def test_legend_is_below_the_images(entries: int) -> None:
    legend = [(f"class {k}", "#2f8f5b") for k in range(entries)]
    without, figure = image_grid(torch.zeros(2, 3, 8, 8)), image_grid(torch.zeros(2, 3, 8, 8), legend=legend)
    picture = render(figure)
    added = len(picture) - len(render(without))
    assert added > 0
    swatches = (picture == torch.tensor([0x2F, 0x8F, 0x5B]).numpy()).all(-1)
    assert swatches[-added:].any()
    assert not swatches[:-added].any()
    assert (picture[:, -2:] == 255).all()  # nothing reaches the right edge
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ([f"class {k}" for k in range(24)] + ["…"] if entries > 24 else [name for name, _ in legend])


@pytest.mark.parametrize("cell", [0.5, 1.2, 3.0])
def test_heading_of_single_image_fits(cell: float) -> None:
    heading = "validation images, TRUTH ABOVE PREDICTION WITH WIDE WORDS such as MMMMMMMMMMMM, after epoch 12"
    figure = image_grid(torch.ones(1, 3, 8, 8), heading=heading, cell=cell)
    picture = render(figure)
    assert (picture == 255).all(-1)[:, -2:].all()  # nothing reaches the right edge
    assert (picture == 255).all(-1)[:2].all()
