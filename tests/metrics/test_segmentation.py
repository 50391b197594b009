import torch

from lit_cv.metrics import SegmentationIoU


def test_metric_names_are_distinct() -> None:
    metric = SegmentationIoU(["a b", "a_b", "a/b"])
    metric.update(torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 1, 2, 2]]]))
    values = {name: float(value) for name, value in metric.compute().items() if name.startswith("iou_")}
    assert values == {"iou_a_b": 1.0, "iou_a_b_1": 0.5, "iou_a_b_2": 0.5}
