import pytest
import torch

from lit_cv.figures import class_color, draw_objects, image_grid, object_titles, render

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


def test_titles() -> None:
    labels = [torch.tensor([0, 1, 1]), torch.zeros(0, dtype=torch.int64)]
    boxes = [torch.zeros(3, 4), torch.zeros(0, 4)]
    assert object_titles(boxes, labels, None, ["a", "b"], count=2) == ["2 b, 1 a", "no objects"]
    mask = torch.tensor([[[0, 2, 255]]])
    assert object_titles(None, None, mask, mask_classes=["x", "y", "z"], count=1) == ["x, z"]


@pytest.mark.parametrize("cell", [0.5, 1.2, 3.0])
def test_heading_of_single_image_fits(cell: float) -> None:
    heading = "validation images, TRUTH ABOVE PREDICTION WITH WIDE WORDS such as MMMMMMMMMMMM, after epoch 12"
    figure = image_grid(torch.ones(1, 3, 8, 8), heading=heading, cell=cell)
    picture = render(figure)
    assert (picture == 255).all(-1)[:, -2:].all()  # nothing reaches the right edge
    assert (picture == 255).all(-1)[:2].all()
