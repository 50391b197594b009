"""What to do about the errors of the machine: no memory, no disk, no permission, no such devices."""

import errno
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_cv.cli.option_names import output_option

__all__ = ["remedy"]

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
# What the Trainer says without naming what to give.
_TRAINER = (
    ("No supported gpu backend", "torch sees no GPU here: take --trainer.accelerator cpu, or auto for what there is."),
    ("Trainer(devices=", "Give a number from 1, or auto (--trainer.devices)."),
    ("in Lightning, but the product", "Give --trainer.devices the number of torchrun's --nproc_per_node, and "
     "--trainer.num_nodes that of its --nnodes."),
    ("You restored a checkpoint with current_epoch", "The run is further than that: give more epochs "
     "(--trainer.max_epochs)."),
)  # fmt: skip
_LOST = ("connection closed by peer", "connection reset by peer", "remote process exited", "connectfullmesh failed")
_ASKED_TO_END = ("Terminated", "Interrupt", "Hangup")
_CRASHES = ("Segmentation fault", "Illegal instruction", "Aborted", "Floating point exception")
_OUTPUTS = ("default_root_dir", "folder", "output", "out", "dirpath")  # last parts of options that name a folder
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def remedy(error: BaseException, typed: Sequence[str] = ()) -> str | None:
    """Return which option to change, `None` for any other error or one that says so itself.

    Args:
        error: The error.
        typed: The arguments of the process, of which one may name the folder that an error is about.

    Example:
        >>> remedy(OSError(28, "No space left on device"))
        'The disk is full: free some space, or write elsewhere with --trainer.default_root_dir.'
    """
    text = str(error)
    if isinstance(error, MisconfigurationException | ValueError):
        return next((advice for words, advice in _TRAINER if words in text), None)
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return _lost_worker(text)
    if torch.distributed.is_initialized() and any(words in text.lower() for words in _LOST):
        return (
            "Another rank failed: its log has the cause, unless it was killed. Continue from the last checkpoint "
            "(--ckpt_path last)."
        )
    if _is_memory(error, text):
        return (
            "Lower --data.batch_size (--trainer.accumulate_grad_batches makes up for it), take --trainer.precision "
            "bf16-mixed, a smaller --data.image_size or --model.backbone. With the same batch size the run goes on "
            "from its last checkpoint (--ckpt_path last), with another one a new run starts from its weights "
            "(--model.weights FILE)."
        )
    if not isinstance(error, OSError) or "--" in text:
        return None
    if error.errno in _FULL:
        return f"The disk is full: free some space, or write elsewhere with {output_option(next(iter(typed), ''))}."
    if error.errno in _CLOSED or _makes_folder(error):
        option = _option_of(error.filename, typed) or output_option(next(iter(typed), ""))
        return f"Choose a folder that can be written to with {option}."
    return None


def _lost_worker(text: str) -> str | None:
    """Return what to do where a worker process has ended; which signal ended it says whether memory ran out."""
    if any(f"killed by signal: {name}" in text for name in _ASKED_TO_END):
        return (
            "A data-loading worker was told to end, not for want of memory: the run goes on from its last checkpoint "
            "(--ckpt_path last)."
        )
    if any(f"killed by signal: {name}" in text for name in _CRASHES):
        return "A data-loading worker crashed: --data.num_workers 0 shows where, or which image it was reading."
    if "killed by signal" in text or "exited unexpectedly" in text:
        return (
            "A data-loading worker was killed, probably out of memory: lower --data.num_workers (0 takes no "
            "processes), or make /dev/shm larger."
        )
    return None


def _makes_folder(error: BaseException) -> bool:
    """Tell whether a folder was to be made: in a place that does not take any, the system says what it likes."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name in ("mkdir", "makedirs")


def _option_of(path: object, typed: Sequence[str]) -> str | None:
    """Return the option of what is written whose value is a path, or a folder above it."""
    for index, token in enumerate(typed):
        option, equals, value = token.partition("=")
        value = value if equals else "".join(typed[index + 1 : index + 2])
        if option.removeprefix("--").rpartition(".")[2] not in _OUTPUTS or not value or not isinstance(path, str):
            continue
        if Path(path).absolute().is_relative_to(Path(value).expanduser().absolute()):
            return option
    return None


def _is_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in text.lower() for words in _NO_MEMORY)
