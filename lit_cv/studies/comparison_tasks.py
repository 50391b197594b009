"""What a run of a comparison trains, written as the configuration of a fit."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_cv.atomic_files import write_text
from lit_cv.running.arguments import read_configuration
from lit_cv.running.precision import has_bfloat16
from lit_cv.studies.comparison_plan import GIVEN, Approach, ApproachStage, Budget, Comparison

__all__ = ["ENDLESS", "RunTask", "TaskConfigurations"]

ENDLESS = 1_000_000  # epochs: the number of steps ends a run


@dataclass(frozen=True)
class RunTask:
    """The task of a run: a stage with a label budget and a seed, after the run of key `before`."""

    approach: Approach
    stage: ApproachStage
    budget: Budget
    seed: int
    before: str | None
    last: bool


class TaskConfigurations:
    """Writes the configurations of the runs of a comparison.

    Args:
        comparison: The comparison.
        folder: Folder of the runs, a folder named by its key for each.

    Attributes:
        data_arguments: Names of the arguments of the DataModule.
        images: Number of training images.
        labels: Number of labels of each budget.
    """

    def __init__(self, comparison: Comparison, folder: Path) -> None:
        self.comparison, self.folder = comparison, folder
        self.data_arguments: Collection[str] = ()
        self.images = 0
        self.labels: dict[str, int] = {}

    def batch_size(self, stage: ApproachStage) -> int:
        """Return the number of images per step of a stage."""
        of_data = self.comparison.data["init_args"].get("batch_size")
        return int(of_data or stage.batch_size or 64)

    def write(self, task: RunTask, folder: Path, steps: int, build: bool = False, timing: bool = False) -> list[str]:
        """Write the configuration of a run to its folder, and return the options of `fit` that load it.

        Args:
            task: The task of the run.
            folder: Folder of the run.
            steps: Optimizer steps.
            build: Whether only the parts are built. The data then have the labels of `task`, even in a shared stage.
            timing: Whether the run is only a trial, so that the weights of the previous stage may not exist.
        """
        c, stage = self.comparison, task.stage
        budget = Budget() if stage.shared and not build else task.budget
        chosen = {
            "val_fraction": 0.0, "labels_per_class": budget.per_class, "label_fraction": budget.fraction,
            "label_seed": task.seed,
        }  # fmt: skip
        chosen = {name: value for name, value in chosen.items() if name in self.data_arguments}
        content = {
            "seed_everything": task.seed,
            "model": {"init_args": self._model(task, steps, build, timing)},
            "data": {
                "class_path": c.data["class_path"],
                "init_args": {"batch_size": self.batch_size(stage), **chosen, **c.data["init_args"]},
            },
            "trainer": self._trainer(stage, steps),
        }
        folder.mkdir(parents=True, exist_ok=True)
        configs = [stage.config if isinstance(stage.config, str) else None, "stage.yaml"]
        if not isinstance(stage.config, str):
            configs[0] = "own.yaml"
            write_text(folder / "own.yaml", yaml.safe_dump(dict(stage.config or {})), "the configuration")
        write_text(folder / "stage.yaml", yaml.safe_dump(content, sort_keys=False), "the configuration")
        paths = [str(folder / name) if name in ("own.yaml", "stage.yaml") else name for name in configs]
        return [f"--config={path}" for path in paths]

    def last_checkpoint(self, key: str) -> Path:
        """Return the path of the last checkpoint of a run."""
        return self.folder / key / "checkpoints" / "last.ckpt"

    def _model(self, task: RunTask, steps: int, build: bool, timing: bool) -> dict[str, Any]:
        c, stage = self.comparison, task.stage
        model: dict[str, Any] = dict(stage.model)
        if stage.warmup is not None and not build:
            images = self.images if stage.shared else self.labels[str(task.budget)]
            model["warmup_epochs"] = stage.warmup * steps / max(1, images // self.batch_size(stage))
        if stage.weights == GIVEN:
            return model | {"weights": c.weights} | ({"backbone": c.backbone} if c.backbone else {})
        if task.before is None:
            return model
        if timing:
            return model | _untrained(task)
        return model | {"weights": str(self.last_checkpoint(task.before).absolute())}

    def _trainer(self, stage: ApproachStage, steps: int) -> dict[str, Any]:
        c = self.comparison
        trainer = {
            "max_epochs": ENDLESS, "max_steps": steps, "max_time": None, "limit_val_batches": 0,
            "num_sanity_val_steps": 0, **stage.trainer, **c.trainer,
        }  # fmt: skip
        if stage.trainer.get("precision") == "bf16-mixed" and "precision" not in c.trainer:
            accelerator = str(trainer.get("accelerator", "auto"))
            trainer["precision"] = "bf16-mixed" if has_bfloat16(accelerator) else "32-true"
        return trainer


def _untrained(task: RunTask) -> dict[str, Any]:
    """Return the backbone of the previous stage, to try a few steps without its weights."""
    earlier = task.approach.stages[task.approach.stages.index(task.stage) - 1]
    model = dict(earlier.model)
    if "backbone" not in model and earlier.config is not None:
        content = read_configuration(earlier.config) if isinstance(earlier.config, str) else earlier.config
        model = {**content.get("model", {}).get("init_args", {}), **model}
    return {"backbone": model["backbone"]} if "backbone" in model else {}
