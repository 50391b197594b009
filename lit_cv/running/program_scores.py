"""Evaluate exported programs on a module's validation or test images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from lit_cv.nn.detection import Detections
from lit_cv.running.object_comparison import BOX_ENTRIES, MASKS, box_outputs
from lit_cv.running.onnx_program import OnnxProgram
from lit_cv.running.training import LitCLI
from lit_cv.tasks.base_task import BaseTask

__all__ = ["ProgramScores", "ProgramScoresCLI"]

Outputs = dict[str, Tensor]


class ProgramScores(L.Callback):
    """Computes a module's metrics from the outputs of ONNX programs, during its validation or test.

    Args:
        programs: Files of the programs by name, with equal outputs.

    Attributes:
        scores: Metrics by program and by name. Outputs that are no predictions, such as features, have
            `{output}_similarity`, the mean cosine similarity to the output of the first program.
    """

    def __init__(self, programs: Mapping[str, Path]) -> None:
        self.programs = programs
        self.scores: dict[str, dict[str, float]] = {}
        self._programs: dict[str, OnnxProgram] = {}
        self._metrics: dict[str, dict[str, MetricCollection]] = {}
        self._similarity: dict[str, dict[str, list[Tensor]]] = {}
        self._tasks: dict[str, BaseTask] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the programs, and build their metrics."""
        self._programs = {name: OnnxProgram(path) for name, path in self.programs.items()}
        self._similarity = {name: {} for name in self.programs}
        outputs = next(iter(self._programs.values())).names
        tasks: dict[str, BaseTask] = getattr(pl_module, "_tasks", {})
        self._tasks = {
            name: task for name, task in tasks.items() if {name or "logits", f"{_prefix(task)}boxes"} & {*outputs}
        }
        self._metrics = {
            name: {key: MetricCollection(dict(task.all_metrics())) for key, task in self._tasks.items()}
            for name in self.programs
        }

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics of all programs with a batch."""
        if not isinstance(batch, Mapping) or "image" not in batch:
            raise ValueError(
                f"{type(pl_module).__name__} is not evaluated on batches with `image`, which its programs take."
            )
        results = {name: program(batch["image"].cpu()) for name, program in self._programs.items()}
        for name, task in self._tasks.items():
            target, chosen = task.target(batch), None
            if target is not None and not task.masks_unknown:
                chosen, target = task.select(target)
            if target is None:
                continue
            for program, result in results.items():
                task.update_metrics(self._metrics[program][name], _decoded(task, result, target, chosen), target)
        if not self._tasks:
            first = next(iter(results.values()))
            for program, result in results.items():
                for name, value in result.items():
                    similarity = F.cosine_similarity(value.flatten(1), first[name].flatten(1))
                    self._similarity[program].setdefault(name, []).append(similarity)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the metrics."""
        for program, metrics in self._metrics.items():
            similarity = self._similarity[program]
            scores = {f"{name}_similarity": float(torch.cat(each).mean()) for name, each in similarity.items()}
            for task, collection in metrics.items():
                prefix = f"{task}_" if task else ""
                scores |= {f"{prefix}{name}": float(value) for name, value in collection.compute().items()}
            self.scores[program] = scores

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


class ProgramScoresCLI(LitCLI):
    """CLI with the options of `validate` or `test` that evaluates programs, too, and leaves no files behind.

    Args:
        scores: The callback that evaluates the programs.
        *args: Arguments of `LitCLI`.
    """

    def __init__(self, scores: ProgramScores, *args: Any) -> None:
        self.scores = scores
        super().__init__(*args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build a Trainer on one CPU in float32 without logs."""
        self.save_config_callback = None
        config = self.trainer_options(**kwargs)
        config |= {
            "accelerator": "cpu", "devices": 1, "precision": "32-true", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [self.scores],
        }  # fmt: skip
        return self._instantiate_trainer(config, [])


def _prefix(task: BaseTask) -> str:
    return f"{task.name}_" if task.name else ""


def _decoded(task: BaseTask, outputs: Outputs, target: Any, chosen: Tensor | None) -> Any:
    """Return what the task's metrics compare with the targets of the chosen images."""
    prefix = _prefix(task)
    if prefix in box_outputs(outputs):
        rows = range(len(outputs[f"{prefix}scores"])) if chosen is None else chosen.tolist()
        return [_objects(outputs, prefix, row) for row in rows]
    output = outputs[task.name or "logits"]
    return task.decode(output if chosen is None else output[chosen], target)


def _objects(outputs: Outputs, prefix: str, row: int) -> Detections:
    used = outputs[f"{prefix}scores"][row] > 0
    masks = outputs.get(f"{prefix}{MASKS}")
    boxes, scores, labels = (outputs[f"{prefix}{entry}"][row][used] for entry in BOX_ENTRIES)
    return Detections(boxes, scores, labels, None if masks is None else masks[row][used].bool())
