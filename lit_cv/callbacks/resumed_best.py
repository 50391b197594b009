"""Carrying over the best checkpoint of a resumed run."""

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
    """Carry over the best checkpoint beside the resumed one, if its score is comparable with new ones.

    A best checkpoint that was selected by another metric is kept under another name.

    Args:
        trainer: The Trainer, which resumes from its `ckpt_path`.
        best: Path of this run's best checkpoint.
        state: Saved state of `RunCheckpoint`: the best score and its metric and mode.
        monitor: Metric of this run.
        mode: Whether it is better when smaller (`min`) or greater (`max`).

    Returns:
        The score of the best checkpoint, which is then at `best`; `None` if there is nothing to carry over.
    """
    if not trainer.ckpt_path:
        return None
    resumed = Path(trainer.ckpt_path)
    previous = resumed.with_name(best.name)
    score = state.get("best_model_score")
    if not previous.is_file() or not isinstance(score, float) or not math.isfinite(score):
        return None
    if _step_of(previous) > _step_of(resumed):
        return None  # from a later step than the resumed one, which this run may not reach
    earlier = state.get("monitor", monitor)
    if (earlier, state.get("mode", mode)) != (monitor, mode):
        if trainer.is_global_zero:
            _keep_other_best(previous, best.parent, str(earlier), monitor)
        return None
    if trainer.is_global_zero and not (best.is_file() and best.samefile(previous)):
        best.parent.mkdir(parents=True, exist_ok=True)
        link_checkpoint(previous, best)  # from the folder of another run
    trainer.strategy.barrier()
    return score


def _keep_other_best(best: Path, folder: Path, earlier: str, monitor: str | None) -> None:
    """Keep the best checkpoint by another metric under another name: its score is not comparable with this metric."""
    name = re.sub(r"\W", "_", earlier)[:50]
    kept = next_free_path(folder / f"best_by_{name}.ckpt")
    folder.mkdir(parents=True, exist_ok=True)
    link_checkpoint(best, kept)
    log.info(
        "The best checkpoint was selected by %s and will now be selected by %s: the previous best is kept as %s.",
        name,
        monitor,
        kept,
    )


def _step_of(path: Path) -> float:
    """Return the number of optimizer steps of a checkpoint, infinity if it is damaged."""
    try:
        return int(load_tensors(path)["global_step"])
    except Exception:  # torch raises many error types for files of other formats
        return math.inf
