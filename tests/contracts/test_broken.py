"""The contract tests detect approaches that break them, one for each contract."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cv import SupervisedModule
from lit_cv.modules.base import Batch, Output, Stage
from tests.contracts import test_contracts as contracts
from tests.contracts.cases import Case
from tests.contracts.runs import PLACES, Run


class KeepsUnsavedCounter(SupervisedModule):
    """Weights its loss by a counter that is not saved in checkpoints."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        self.count = getattr(self, "count", 0) + 1
        output = super().step(batch, stage)
        return output if stage != "train" else output | {"loss": output["loss"] * self.count}


class DrawsOnce(SupervisedModule):
    """Draws a random number at its first step, which is another step in a resumed run."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        if stage == "train" and not hasattr(self, "drawn"):
            self.drawn = torch.rand(1)
        return super().step(batch, stage)


class Overflows(SupervisedModule):
    """Has an infinite loss in bfloat16."""

    def losses(self, output: Any, target: Any, stage: Stage) -> Output:
        result = super().losses(output, target, stage)
        return result | {"loss": result["loss"] * (torch.inf if output.dtype == torch.bfloat16 else 1)}


class ScalesLogits(SupervisedModule):
    """Scales its logits by a random number that is drawn at construction and not saved in checkpoints."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.scale = float(torch.rand(()))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits * self.scale


class BranchesOnValues(SupervisedModule):
    """Has control flow that depends on the values of the images."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits if images.sum() > 0 else -logits


class HasPathHyperparameter(SupervisedModule):
    """Has a hyperparameter that is not a plain value."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.hparams["folder"] = Path()


class HidesMissingImages(SupervisedModule):
    """Replaces missing images instead of reporting them."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        return super().step(batch if "image" in batch else {"image": torch.zeros(2, 3, 16, 16), **batch}, stage)


class CountsEvaluations(SupervisedModule):
    """Counts evaluations in a buffer."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.register_buffer("evaluations", torch.zeros(()))

    def step(self, batch: Batch, stage: Stage) -> Output:
        if stage != "train":
            self.get_buffer("evaluations").add_(1)
        return super().step(batch, stage)


class ReadsLoss(SupervisedModule):
    """Reads the value of its loss, which waits for the device."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        output = super().step(batch, stage)
        output["loss"].item()
        return output


class RunsBackboneTwice(SupervisedModule):
    """Runs the backbone twice per step."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        self.embed(batch["image"])
        return super().step(batch, stage)


RunCase = Callable[[Case], Run]


@pytest.fixture
def run_case(tmp_path: Path) -> RunCase:
    """A function that does an uninterrupted run."""
    return lambda case: Run(case, tmp_path / "uninterrupted", seed=1)


def resume(case: Case, run_case: RunCase, folder: Path) -> None:
    contracts.test_resume_is_exact(case, PLACES[0], run_case, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "check", "error"),
    [
        (KeepsUnsavedCounter, resume, "logged/"),
        (DrawsOnce, resume, "random state"),
        (Overflows, contracts.test_losses_are_finite, "assert False"),
        (
            ScalesLogits,
            lambda case, run, folder: contracts.test_copies_predict_the_same(case, run),
            "load_from_checkpoint",
        ),
        (BranchesOnValues, contracts.test_exports_equal_module, "data-dependent"),
        (HasPathHyperparameter, lambda case, run, folder: run(case).content(), "Weights only load failed"),
        (
            CountsEvaluations,
            lambda case, run, folder: contracts.test_evaluation_is_repeatable_and_pure(case, run),
            "tensors/evaluations",
        ),
        (
            HidesMissingImages,
            lambda case, run, folder: contracts.test_wrong_batch_error_names_class_and_entry(case, run),
            "Expected input batch_size",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_contracts_are_detected(
    cls: type[SupervisedModule], check: Callable[..., None], error: str, run_case: RunCase, tmp_path: Path
) -> None:
    case = Case(cls)
    with pytest.raises(Exception, match=error):
        check(case, run_case, tmp_path)


@pytest.mark.parametrize("cls", [ReadsLoss, RunsBackboneTwice])
def test_broken_overhead_is_detected(
    cls: type[SupervisedModule], run_case: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        contracts.test_steps_do_not_wait_for_device(Case(cls), run_case, monkeypatch)
