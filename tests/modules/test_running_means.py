import pytest
import torch

from lit_cv.modules.running_means import RunningMeans


def test_means_are_weighted_by_batch_size() -> None:
    means, values, sizes = RunningMeans(), torch.rand(7, dtype=torch.float64), [5, 5, 5, 5, 5, 5, 2]
    for value, size in zip(values, sizes, strict=True):
        means.update({"loss": value.float(), "acc": 2 * value.float()}, size)
    expected = sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)
    result = means.compute()
    assert float(result["loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(result["acc"]) == pytest.approx(2 * float(expected), rel=1e-6)


def test_a_scalar_that_some_batches_lack_is_averaged_over_the_others() -> None:
    means = RunningMeans()
    means.update({"loss": torch.tensor(1.0), "extra": torch.tensor(4.0)}, 2)
    means.update({"loss": torch.tensor(3.0)}, 2)
    assert {k: float(v) for k, v in means.compute().items()} == {"loss": 2.0, "extra": 4.0}


def test_no_graph_is_kept_and_the_given_tensor_is_not_changed() -> None:
    means, value = RunningMeans(), torch.tensor(2.0, requires_grad=True)
    for _ in range(2):
        means.update({"loss": value}, 1)
    assert not means.compute()["loss"].requires_grad
    assert value.detach().item() == 2.0


def test_the_state_restores_the_exact_sums() -> None:
    means = RunningMeans()
    for value in torch.rand(9):
        means.update({"loss": value}, 3)
    restored = RunningMeans()
    restored.load_state_dict(means.state_dict(), torch.device("cpu"))
    for each in (means, restored):
        each.update({"loss": torch.tensor(0.3)}, 2)
    assert torch.equal(means.compute()["loss"], restored.compute()["loss"])
