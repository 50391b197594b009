"""The contracts notice approaches that break them, one for each."""

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


class Remembers(SupervisedModule):
    """Weighs its loss by a number that no checkpoint holds."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        self.count = getattr(self, "count", 0) + 1
        output = super().step(batch, stage)
        return output if stage != "train" else output | {"loss": output["loss"] * self.count}


class DrawsOnce(SupervisedModule):
    """Draws once more at its first step, which a continued run does at another one."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        if stage == "train" and not hasattr(self, "drawn"):
            self.drawn = torch.rand(1)
        return super().step(batch, stage)


class Overflows(SupervisedModule):
    """Has no finite loss in bfloat16."""

    def losses(self, output: Any, target: Any, stage: Stage) -> Output:
        result = super().losses(output, target, stage)
        return result | {"loss": result["loss"] * (torch.inf if output.dtype == torch.bfloat16 else 1)}


class Shifts(SupervisedModule):
    """Shifts its logits by a number that is drawn when it is built, and that no checkpoint holds."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.shift = float(torch.rand(()))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits * self.shift


class Branches(SupervisedModule):
    """Computes what depends on the values of the images."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits if images.sum() > 0 else -logits


class KeepsPath(SupervisedModule):
    """Has a hyperparameter that is no plain value."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.hparams["folder"] = Path()


class Hides(SupervisedModule):
    """Does not tell what it lacks."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        return super().step(batch if "image" in batch else {"image": torch.zeros(2, 3, 16, 16), **batch}, stage)


class Counts(SupervisedModule):
    """Counts evaluations in a buffer."""

    def configure_networks(self) -> None:
        super().configure_networks()
        self.register_buffer("seen", torch.zeros(()))

    def step(self, batch: Batch, stage: Stage) -> Output:
        if stage != "train":
            self.get_buffer("seen").add_(1)
        return super().step(batch, stage)


class Waits(SupervisedModule):
    """Reads its loss."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        output = super().step(batch, stage)
        output["loss"].item()
        return output


class LooksTwice(SupervisedModule):
    """Runs the backbone twice."""

    def step(self, batch: Batch, stage: Stage) -> Output:
        self.embed(batch["image"])
        return super().step(batch, stage)


Whole = Callable[[Case], Run]


@pytest.fixture
def whole(tmp_path: Path) -> Whole:
    """An uninterrupted run."""
    return lambda case: Run(case, tmp_path / "whole", seed=1)


def resume(case: Case, whole: Whole, folder: Path) -> None:
    contracts.test_resume_is_exact(case, PLACES[0], whole, folder)


@pytest.mark.parametrize(
    ("cls", "check", "error"),
    [
        (Remembers, resume, "logged/"),
        (DrawsOnce, resume, "random state"),
        (Overflows, contracts.test_losses_are_finite, "assert False"),
        (Shifts, lambda case, whole, folder: contracts.test_copies_predict_alike(case, whole), "load_from_checkpoint"),
        (Branches, contracts.test_exports_equal_the_module, "data-dependent"),
        (KeepsPath, lambda case, whole, folder: whole(case).content(), "Weights only load failed"),
        (
            Counts,
            lambda case, whole, folder: contracts.test_evaluation_repeats_and_changes_nothing(case, whole),
            "tensors/seen",
        ),
        (
            Hides,
            lambda case, whole, folder: contracts.test_errors_of_a_wrong_batch_name_class_and_entry(case, whole),
            "Expected input batch_size",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_contracts_are_noticed(
    cls: type[SupervisedModule], check: Callable[..., None], error: str, whole: Whole, tmp_path: Path
) -> None:
    case = Case(cls)
    with pytest.raises(Exception, match=error):
        check(case, whole, tmp_path)


@pytest.mark.parametrize("cls", [Waits, LooksTwice])
def test_steps_that_cost_more_are_noticed(
    cls: type[SupervisedModule], whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        contracts.test_steps_do_not_wait(Case(cls), whole, monkeypatch)
