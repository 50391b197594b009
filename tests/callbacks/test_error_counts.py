import torch

from lit_cv.callbacks.error_counts import MultiLabelCounts, WorstImages

LOGITS = torch.tensor([[3.0, -2.0, 4.0], [-1.0, 2.0, 5.0], [9.0, 9.0, 9.0]])
TARGET = torch.tensor([[1, 1, -1], [0, 1, -1], [-1, -1, -1]])


def test_unknown_labels_are_not_counted() -> None:
    counts = MultiLabelCounts(3, torch.device("cpu"))
    counts.update(LOGITS, TARGET)
    assert counts.table.tolist() == [[1, 1, 0], [1, 1, 0], [1, 2, 0]]


def test_worst_images_by_known_labels() -> None:
    worst = WorstImages(3)
    worst.update(torch.zeros(3, 1, 2, 2), LOGITS, TARGET)
    first, second, last = worst.losses.tolist()
    assert worst.targets[0].tolist() == [1, 1, -1]
    assert first > second > 0
    assert last == -torch.inf
