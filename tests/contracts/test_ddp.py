"""Complete runs on two ranks under DistributedDataParallel equal a run of one rank on the joined batches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules import DomainAdaptationDataModule
from lit_cv import DomainAdversarialModule, PrototypicalModule
from tests.contracts.approaches import BYOL
from tests.contracts.data import Episodes, Images
from tests.contracts.runs import QUIET
from tests.processes import run_ranks

OPTIONS: dict[str, Any] = {"backbone": "lenet", "optimizer": "sgd", "lr": 0.01}  # without BatchNorm
SIDE = 28


def domains(batch_size: int) -> DomainAdaptationDataModule:
    """Return two domains, with a target that restarts within an epoch."""
    source, target = Images(count=60, side=SIDE), Images(count=40, side=SIDE, shift=40)
    return DomainAdaptationDataModule(source, target, batch_size=batch_size)


APPROACHES: dict[str, tuple[Callable[..., Any], Callable[[int], Any], int]] = {
    "a moving average": (BYOL, lambda size: Images(count=50, side=SIDE, batch_size=size), 16),
    "two domains": (DomainAdversarialModule, domains, 16),
    "episodes": (partial(PrototypicalModule, flatten=False), lambda size: Episodes(side=SIDE, batch_size=size), 2),
}


def fit(ranks: int, path: Path) -> None:
    """Fit each approach and save its final weights."""
    results = {}
    for name, (make, data, size) in APPROACHES.items():
        L.seed_everything(1, verbose=False)
        module = make(**OPTIONS)
        trainer = L.Trainer(
            **QUIET, devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=1, logger=False,
            enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, data(size // ranks))
        results[name] = (trainer.global_step, module.state_dict())
    if trainer.is_global_zero:
        torch.save(results, path)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Steps and final weights of one rank, and of two."""
    folder = tmp_path_factory.mktemp("results")
    fit(1, folder / "1.pt")
    run_ranks(lambda rank: fit(2, folder / "2.pt"))
    return [torch.load(folder / f"{ranks}.pt", weights_only=True) for ranks in (1, 2)]


@pytest.mark.parametrize("name", APPROACHES)
def test_fit_on_two_ranks_equals_one(name: str, results: list[dict[str, Any]]) -> None:
    (steps, one), (steps_of_two, two) = (each[name] for each in results)
    assert steps == steps_of_two >= 3
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=2e-5, msg=key)
