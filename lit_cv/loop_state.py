"""Where training stands, read from Lightning's loops, which offer no public names for it."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

__all__ = [
    "batch_index",
    "is_logging_step",
    "keep_validation_due",
    "print_results_once",
    "restore_loaders",
    "step_index",
    "validation_due",
]


def step_index(trainer: L.Trainer) -> int:
    """Return the index of the optimizer step under way, from 0: the step that Lightning logs at."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def batch_index(trainer: L.Trainer) -> int:
    """Return the index within its epoch of the batch that is about to be transferred, from 0.

    After a resume it goes on where the checkpoint was written.
    """
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether the step under way is one that is logged."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval > 0 and (step_index(trainer) + 1) % interval == 0


def validation_due(trainer: L.Trainer) -> bool:
    """Whether validation follows the training batch under way."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def keep_validation_due(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let a run that continues from a checkpoint of a training batch's end begin with the validation that is due there.

    Lightning takes such a checkpoint for one of after the validation, and after the last batch of an epoch for one of
    after the epoch: neither would ever be measured. Here the loops say that validation had just begun.
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
    """Let the evaluation under way print numbers that are of all its loaders together in one column.

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
    """Hand a checkpoint's loader states to the training loaders, if Lightning has not.

    Lightning does so when it sets up the data; `estimated_stepping_batches`, which a schedule asks for, makes
    that happen before the checkpoint's loops are read, and an epoch would start again from its first batch. After a
    whole epoch they are of no use; a run that goes on with another batch size or number of processes is told so.
    """
    loop = trainer.fit_loop
    try:
        loop._load_combined_loader_states()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the checkpoint is damaged: its place in the data cannot be read ({error}).") from error
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
            f"the checkpoint was written with {', '.join(sorted(changed))}: training goes on, but not as it would have "
            "there (steps an epoch, learning rate of each step)."
        )
