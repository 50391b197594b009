"""The progress of training, read from private attributes of Lightning's loops, which have no public ones for it."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

__all__ = [
    "batch_index",
    "is_logging_step",
    "keep_validation_due",
    "print_results_once",
    "restore_loaders",
    "run_validation",
    "step_index",
    "validation_due",
]


def step_index(trainer: L.Trainer) -> int:
    """Return the index of the current optimizer step, from 0: the step that Lightning logs at."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def batch_index(trainer: L.Trainer) -> int:
    """Return the index within its epoch of the batch that is about to be transferred to the device, from 0.

    After a resume it continues from the index in the checkpoint.
    """
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def is_logging_step(trainer: L.Trainer) -> bool:
    """Return whether the current step is logged."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval > 0 and (step_index(trainer) + 1) % interval == 0


def validation_due(trainer: L.Trainer) -> bool:
    """Return whether validation follows the current training batch."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def keep_validation_due(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Mark validation as just begun in a checkpoint that is written between a training batch and its validation.

    Lightning treats such a checkpoint as if validation had already run, or after the last batch of an epoch, as if the
    epoch had ended, and a resumed run would skip that validation.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    progress = loops.get("epoch_loop.batch_progress")
    if progress is None or progress["total"]["completed"] != progress["total"]["processed"] - 1:
        return
    if validation_due(trainer):
        for counts in (progress["total"], progress["current"]):
            counts["completed"] += 1
        begun = loops["epoch_loop.val_loop.batch_progress"]
        for name in ("total", "current"):
            begun[name] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def print_results_once(trainer: L.Trainer) -> None:
    """Print metrics over all loaders of the running evaluation in one column.

    Lightning repeats what is logged at the end of an epoch for each loader.
    """
    loop: Any = trainer._active_loop
    show = type(loop)._print_results

    def print_results(results: list[dict[str, Any]], stage: str) -> None:
        first = results[0] if results else {}
        same = all(each.keys() == first.keys() and all(each[k] is first[k] for k in first) for each in results)
        show(results[:1] if same else results, stage)

    loop._print_results = print_results


def restore_loaders(trainer: L.Trainer) -> None:
    """Load a checkpoint's loader states into the training loaders, if Lightning has not.

    Lightning does so when it sets up the data. But `estimated_stepping_batches`, which a schedule uses, sets up the
    data before the checkpoint's loops are read, so that the epoch would restart from its first batch. After a complete
    epoch the states are not needed. A warning says if the batch size or the number of ranks has changed.
    """
    loop = trainer.fit_loop
    try:
        loop._load_combined_loader_states()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the checkpoint is damaged: its data loader state cannot be read ({error}).") from error
    loaders = loop._combined_loader.flattened if loop._combined_loader is not None else []
    now = [loader.state_dict() for loader in loaders if hasattr(loader, "state_dict")]
    changed = {
        f"{name}={old[name]}, now {new[name]}"
        for old, new in zip(loop._combined_loader_states_to_load, now, strict=False)
        for name in ("batch_size", "world_size")
        if name in old and name in new and old[name] != new[name] and old.get("batches", 1) > 0
    }
    if changed:
        rank_zero_warn(
            f"the checkpoint was written with {', '.join(sorted(changed))}: the resumed run will differ from an "
            "uninterrupted one (steps per epoch, learning rate of each step)."
        )


def run_validation(trainer: L.Trainer) -> None:
    """Run a validation before the first training step; a callback calls it in `on_train_start`."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
