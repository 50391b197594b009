"""DetectionAP, compared with pycocotools, COCO's evaluation."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode
from torch import Tensor

from lit_cv.metrics import DetectionAP
from lit_cv.nn.detection import Detections

Scene = tuple[Detections, dict[str, Tensor]]
COCO_NAMES = {"map": 0, "map50": 1, "map75": 2, "mar": 8}  # indices in COCOeval.stats


def coco_values(scenes: list[Scene], classes: int, kind: str = "bbox") -> dict[str, float]:
    images, objects, found = [], [], []
    for image, (detections, target) in enumerate(scenes, 1):
        images.append({"id": image, "height": 40, "width": 48})
        crowds = target.get("iscrowd", torch.zeros(len(target["labels"])))
        for k, (box, label, crowd) in enumerate(zip(target["boxes"], target["labels"], crowds, strict=True)):
            entry = {"id": len(objects) + 1, "image_id": image, "category_id": int(label), "iscrowd": int(crowd)}
            objects.append(entry | (sides(box) if kind == "bbox" else outline(target["masks"][k])))
        for k, (box, score, label) in enumerate(zip(*detections[:3], strict=True)):
            shape = sides(box) if kind == "bbox" or detections.masks is None else outline(detections.masks[k])
            found.append({"image_id": image, "category_id": int(label), "score": float(score)} | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": i, "name": str(i)} for i in range(classes)]
        truth.dataset = {"info": {}, "images": images, "annotations": objects, "categories": categories}
        truth.createIndex()
        ours = truth.loadRes(found)
        run = COCOeval(truth, ours, kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = {name: float(run.stats[place]) for name, place in COCO_NAMES.items()}
    for label in range(classes):
        precision = run.eval["precision"][:, :, label, 0, -1]
        if (precision > -1).any():
            values |= {f"ap_{label}": precision.mean(), f"ap50_{label}": precision[0].mean()}
    return values


def sides(box: Tensor) -> dict[str, object]:
    x0, y0, x1, y1 = box.tolist()
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}


def outline(mask: Tensor) -> dict[str, object]:
    return {"segmentation": encode(np.asfortranarray(mask.numpy().astype(np.uint8))), "area": int(mask.sum())}


def our_values(scenes: list[Scene], classes: int, masks: bool = False) -> dict[str, float]:
    metric = DetectionAP([str(i) for i in range(classes)], masks)
    for start in range(0, len(scenes), 3):
        found, targets = zip(*scenes[start : start + 3], strict=True)
        metric.update(found, targets)
    return {name: float(value) for name, value in metric.compute().items()}


def scene(found: list[list[float]], scores: list[float], true: list[list[float]]) -> Scene:
    detections = Detections(
        torch.tensor(found).view(-1, 4), torch.tensor(scores), torch.zeros(len(found), dtype=torch.int64)
    )
    return detections, {"boxes": torch.tensor(true).view(-1, 4), "labels": torch.zeros(len(true), dtype=torch.int64)}


def test_three_of_five_objects_without_false_positives() -> None:
    boxes = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(5)]
    scenes = [scene(boxes[:3], [0.9, 0.8, 0.7], boxes)]
    values = our_values(scenes, 1)
    # recall 0.6 is reached: 61 of the 101 recalls 0, 0.01, ..., 1 have precision 1
    assert values["map50"] == pytest.approx(61 / 101, abs=1e-6)
    assert values == pytest.approx(coco_values(scenes, 1), abs=1e-6)


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_iou_equal_to_threshold_counts(tenths: int) -> None:
    scenes = [scene([[0.0, 0.0, float(tenths), 10.0]], [0.9], [[0.0, 0.0, 10.0, 10.0]])]
    reached = 2 * (tenths - 5) + 1  # of 0.5, 0.55, ..., 0.95
    values = our_values(scenes, 1)
    assert values["map"] == pytest.approx(reached / 10, abs=1e-6)
    assert values == pytest.approx(coco_values(scenes, 1), abs=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_random_sets_equal_pycocotools(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    scenes = []
    for _ in range(int(integers(1, 9, 1))):
        objects, false_alarms = int(integers(0, 6, 1)), int(integers(0, 4, 1))
        corner = integers(0, 60, objects, 2)
        true = torch.cat([corner, corner + integers(5, 25, objects, 2)], 1).float()
        wrong = integers(0, 60, false_alarms, 2)
        # integers create ties and IoUs equal to a threshold
        moved = true + integers(-2, 3, objects, 4)
        found = torch.cat([moved, torch.cat([wrong, wrong + integers(5, 25, false_alarms, 2)], 1).float()])
        labels = integers(0, 3, objects)
        kinds = torch.cat([labels, integers(0, 3, false_alarms)])
        scores = torch.rand(len(found), generator=generator)
        target = {"boxes": true, "labels": labels, "iscrowd": integers(0, 10, objects) == 0}
        scenes.append((Detections(found, scores, kinds), target))
    expected = coco_values(scenes, 4)
    values = our_values(scenes, 4)
    if expected["map"] == -1:  # without any objects
        assert all(math.isnan(values[name]) for name in COCO_NAMES)
    else:
        assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_masks_of_random_sets_equal_pycocotools(seed: int) -> None:
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:40, :48]

    def disks(count: int) -> tuple[Tensor, Tensor]:
        """Return masks and boxes of disks, some of them cut by the edge."""
        circles = random.uniform([0, 0, 3], [48, 40, 12], (count, 3))
        masks = (
            np.array([(x - u) ** 2 + (y - v) ** 2 < r**2 for u, v, r in circles]).reshape(count, 40, 48).astype(bool)
        )
        corners = [[u - r, v - r, u + r, v + r] for u, v, r in circles]
        return torch.from_numpy(masks), torch.tensor(corners).float().view(-1, 4)

    scenes = []
    for number in range(7):  # the first image has false positives only
        true, boxes = disks(number % 4)
        alarms, more = disks(2 - number % 3)
        shift = random.randint(-2, 3)
        masks = torch.cat([true.roll(shift, 2), alarms])
        labels = torch.from_numpy(random.randint(0, 2, len(true)))
        kinds = torch.cat([labels, torch.from_numpy(random.randint(0, 2, len(alarms)))])
        scores = torch.from_numpy(random.rand(len(masks)).astype(np.float32))
        crowds = torch.from_numpy(random.rand(len(true)) < 0.1)
        target = {"boxes": boxes, "labels": labels, "iscrowd": crowds, "masks": true}
        scenes.append((Detections(torch.cat([boxes, more]), scores, kinds, masks), target))
    values = our_values(scenes, 2, masks=True)
    expected = coco_values(scenes, 2) | {f"mask_{k}": v for k, v in coco_values(scenes, 2, "segm").items()}
    assert values == pytest.approx(expected, abs=1e-6)


def test_scores_are_nan_without_objects() -> None:
    nothing = scene([], [], [])
    alarm = scene([[0.0, 0.0, 5.0, 5.0]], [0.9], [])
    for scenes in ([nothing], [alarm], [nothing, alarm]):
        values = our_values(scenes, 2)
        assert values.keys() == {"map", "map50", "map75", "mar"}
        assert all(math.isnan(value) for value in values.values())


def test_false_positives_of_class_without_objects_do_not_count() -> None:
    found, target = scene([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 5.0, 5.0]], [0.9, 0.8], [[0.0, 0.0, 9.0, 9.0]])
    scenes = [(found._replace(labels=torch.tensor([0, 1])), target)]
    values = our_values(scenes, 2)
    assert values["map"] == 1
    assert "ap_1" not in values
    assert values == pytest.approx(coco_values(scenes, 2), abs=1e-6)
