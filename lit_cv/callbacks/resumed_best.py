"""What becomes of the best checkpoint of a run that goes on."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from lit_cv.atomic_files import next_free_path
from lit_cv.checkpoint_file import load_tensors
from lit_cv.checkpoint_io import link_checkpoint

__all__ = ["resumed_best"]

log = logging.getLogger("lit_cv")


def resumed_best(
    trainer: L.Trainer, best: Path, state: Mapping[str, Any], monitor: str | None, mode: str | None
) -> float | None:
    """Take up the best checkpoint beside the one that is continued, if its score can be compared with new ones.

    One that was chosen by another metric is kept under a name of its own.

    Args:
        trainer: The Trainer, which continues from its `ckpt_path`.
        best: File of this run's best checkpoint.
        state: What the checkpoint says of the best one: its score, and the metric that it was chosen by.
        monitor: Metric of this run.
        mode: Whether it is better when smaller (`min`) or greater (`max`).

    Returns:
        The score of the best checkpoint, which then lies at `best`; `None` if there is none to go on from.
    """
    if not trainer.ckpt_path:
        return None
    continued = Path(trainer.ckpt_path)
    before = continued.with_name(best.name)
    score = state.get("best_model_score")
    if not before.is_file() or not isinstance(score, float) or not math.isfinite(score):
        return None
    if _step_of(before) > _step_of(continued):
        return None  # of later than the checkpoint: this run may not come to it
    earlier = state.get("monitor", monitor)
    if (earlier, state.get("mode", mode)) != (monitor, mode):
        if trainer.is_global_zero:
            _keep_other_best(before, best.parent, str(earlier), monitor)
        return None
    if trainer.is_global_zero and not (best.is_file() and best.samefile(before)):
        best.parent.mkdir(parents=True, exist_ok=True)
        link_checkpoint(before, best)  # of a run that this one starts from
    trainer.strategy.barrier()
    return score


def _keep_other_best(best: Path, folder: Path, earlier: str, monitor: str | None) -> None:
    """Give the best checkpoint by another metric a name of its own: its score says nothing about this metric."""
    name = re.sub(r"\W", "_", earlier)[:50]
    kept = next_free_path(folder / f"best_by_{name}.ckpt")
    folder.mkdir(parents=True, exist_ok=True)
    link_checkpoint(best, kept)
    log.info(
        "The best checkpoint was chosen by %s, from now on it is by %s: the one so far is kept as %s.",
        name,
        monitor,
        kept,
    )


def _step_of(path: Path) -> float:
    """Return the optimizer steps of a checkpoint, infinity for a damaged one."""
    try:
        return int(load_tensors(path)["global_step"])
    except Exception:  # torch raises all kinds of errors for files of other kinds
        return math.inf
