from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.modules.running_means import RunningMeans
from tests.processes import run_ranks


def test_means_are_weighted_by_batch_size() -> None:
    means, values, sizes = RunningMeans(), torch.rand(7, dtype=torch.float64), [5, 5, 5, 5, 5, 5, 2]
    for value, size in zip(values, sizes, strict=True):
        means.update({"loss": value.float(), "acc": 2 * value.float()}, size)
    expected = sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)
    result = means.compute()
    assert float(result["loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(result["acc"]) == pytest.approx(2 * float(expected), rel=1e-6)


def test_missing_scalars_are_ignored() -> None:
    means = RunningMeans()
    means.update({"loss": torch.tensor(1.0), "extra": torch.tensor(4.0)}, 2)
    means.update({"loss": torch.tensor(3.0)}, 2)
    assert {k: float(v) for k, v in means.compute().items()} == {"loss": 2.0, "extra": 4.0}


def test_input_is_detached_and_not_changed() -> None:
    means, value = RunningMeans(), torch.tensor(2.0, requires_grad=True)
    for _ in range(2):
        means.update({"loss": value}, 1)
    assert not means.compute()["loss"].requires_grad
    assert value.detach().item() == 2.0


def test_state_dict_restores_exact_sums() -> None:
    means = RunningMeans()
    for value in torch.rand(9):
        means.update({"loss": value}, 3)
    restored = RunningMeans()
    restored.load_state_dict(means.state_dict(), torch.device("cpu"))
    for each in (means, restored):
        each.update({"loss": torch.tensor(0.3)}, 2)
    assert torch.equal(means.compute()["loss"], restored.compute()["loss"])


@pytest.mark.parametrize("kind", [int, float, torch.tensor])
def test_counts_weight_partial_means(kind: Any) -> None:
    means = RunningMeans()
    for accuracy, labeled in ((0.0, 16), (1.0, 1)):
        means.update({"acc": torch.tensor(accuracy), "loss": torch.tensor(2.0)}, 16, {"acc": kind(labeled)})
    assert float(means.compute()["acc"]) == pytest.approx(1 / 17)
    restored = RunningMeans()
    restored.load_state_dict(means.state_dict(), torch.device("cpu"))
    assert float(restored.compute()["acc"]) == pytest.approx(1 / 17)


@pytest.mark.parametrize("kind", [int, float, torch.tensor])
def test_means_with_count_zero_are_ignored(kind: Any) -> None:
    means = RunningMeans()
    means.update({"acc": torch.tensor(torch.nan)}, 16, {"acc": kind(0)})
    assert means.compute() == {}
    means.update({"acc": torch.tensor(0.5)}, 16, {"acc": kind(3)})
    assert float(means.compute()["acc"]) == 0.5


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    means = RunningMeans()
    if rank == 0:
        means.update({"acc": torch.tensor(0.0)}, 16)
    else:  # other names, in another order
        means.update({"extra": torch.tensor(3.0), "acc": torch.tensor(1.0)}, 16, {"acc": torch.tensor(1)})
    torch.save(means.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_may_have_different_scalars(tmp_path: Path) -> None:
    run_ranks(one_of_two, str(tmp_path))
    for rank in range(2):
        means = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert {name: float(value) for name, value in means.items()} == pytest.approx({"acc": 1 / 17, "extra": 3.0})
