import pytest
import torch

from lit_cv.losses import class_thresholds, pseudo_labels

PROBABILITIES = torch.tensor([[0.95, 0.05, 0.0], [0.9499, 0.05, 0.0001], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])


def test_common_threshold() -> None:
    labels, mask = pseudo_labels(PROBABILITIES, 0.95)
    assert labels.tolist() == [0, 0, 1, 2]
    assert mask.tolist() == [True, False, False, False]


def test_threshold_per_class() -> None:
    thresholds = class_thresholds(0.9, torch.tensor([0.6, 0.3, 0.1]))
    torch.testing.assert_close(thresholds, torch.tensor([0.9, 0.45, 0.15]))
    assert pseudo_labels(PROBABILITIES, thresholds)[1].tolist() == [True, True, True, True]
    assert pseudo_labels(PROBABILITIES, torch.tensor([0.95, 0.6, 0.5]))[1].tolist() == [True, False, False, True]
    torch.testing.assert_close(class_thresholds(0.9, torch.full((3,), 1 / 3)), torch.full((3,), 0.9))


def test_most_frequent_class_keeps_threshold() -> None:
    for seed in range(50):
        share = torch.rand(4, generator=torch.Generator().manual_seed(seed)).softmax(0)
        assert class_thresholds(0.95, share).max() == torch.tensor(0.95)


def test_number_and_tensor_thresholds() -> None:
    certain = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    for threshold in (1, 1.0, torch.tensor(1.0), torch.tensor([1.0, 1.0])):
        assert pseudo_labels(certain, threshold)[1].tolist() == [True, False]


def test_invalid_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"thresholds of shape \(2,\) for 3 classes"):
        pseudo_labels(PROBABILITIES, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"probabilities of shape \(3,\)"):
        pseudo_labels(PROBABILITIES[0], 0.5)
