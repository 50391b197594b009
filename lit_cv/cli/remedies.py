"""Advice for errors of the machine: out of memory, full disk, missing permission, missing devices."""

import errno
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_cv.cli.option_names import output_option

__all__ = ["remedy"]

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
# Messages of the Trainer that do not name the option to change.
_TRAINER = (
    ("No supported gpu backend", "torch sees no GPU here: set --trainer.accelerator cpu, or auto for the best device."),
    ("Trainer(devices=", "Give a number of at least 1, or auto (--trainer.devices)."),
    ("in Lightning, but the product", "Set --trainer.devices to torchrun's --nproc_per_node, and "
     "--trainer.num_nodes to its --nnodes."),
    ("You restored a checkpoint with current_epoch", "The run has trained for longer already: give more "
     "epochs (--trainer.max_epochs)."),
)  # fmt: skip
_LOST = ("connection closed by peer", "connection reset by peer", "remote process exited", "connectfullmesh failed")
_TERMINATIONS = ("Terminated", "Interrupt", "Hangup")
_CRASHES = ("Segmentation fault", "Illegal instruction", "Aborted", "Floating point exception")
_OUTPUTS = ("default_root_dir", "folder", "output", "out", "dirpath")  # last parts of options that name an output
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def remedy(error: BaseException, typed: Sequence[str] = ()) -> str | None:
    """Return advice on which option to change, `None` if there is none or the message has it already.

    Args:
        error: The error.
        typed: The arguments of the program, to find the option that names the folder of an error.

    Example:
        >>> remedy(OSError(28, "No space left on device"))
        'The disk is full: free some space, or write elsewhere with --trainer.default_root_dir.'
    """
    text = str(error)
    if isinstance(error, MisconfigurationException | ValueError):
        return next((advice for words, advice in _TRAINER if words in text), None)
    if isinstance(error, RuntimeError) and text.endswith("_backward is not implemented"):
        return (
            "torch has no second derivative of a layer of this network (hardsigmoid: of MobileNetV3): choose another "
            "--model.backbone, or omit second derivatives (--model.first_order true)."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return _lost_worker(text)
    if torch.distributed.is_initialized() and any(words in text.lower() for words in _LOST):
        return (
            "Another rank failed: its log has the cause, unless it was killed. Resume from the last checkpoint "
            "(--ckpt_path last)."
        )
    if _is_memory(error, text):
        return (
            "Lower --data.batch_size (--trainer.accumulate_grad_batches compensates for it), use --trainer.precision "
            "bf16-mixed, or a smaller --data.image_size or --model.backbone. With the same batch size, resume from the "
            "last checkpoint (--ckpt_path last); with another one, start a new run from its weights "
            "(--model.weights FILE)."
        )
    if not isinstance(error, OSError) or "--" in text:
        return None
    if error.errno in _FULL:
        return f"The disk is full: free some space, or write elsewhere with {output_option(next(iter(typed), ''))}."
    if error.errno in _NOT_WRITABLE or _makes_folder(error):
        option = _option_for(error.filename, typed) or output_option(next(iter(typed), ""))
        return f"Choose a writable folder with {option}."
    return None


def _lost_worker(text: str) -> str | None:
    """Return advice for a dead data-loading worker; the signal that ended it shows whether memory ran out."""
    if any(f"killed by signal: {name}" in text for name in _TERMINATIONS):
        return (
            "A data-loading worker was terminated by a signal, not for lack of memory: resume from the last checkpoint "
            "(--ckpt_path last)."
        )
    if any(f"killed by signal: {name}" in text for name in _CRASHES):
        return "A data-loading worker crashed: run with --data.num_workers 0 to see where, or on which image."
    if "killed by signal" in text or "exited unexpectedly" in text:
        return (
            "A data-loading worker was killed, probably out of memory: lower --data.num_workers (0 starts no "
            "workers), or make /dev/shm larger."
        )
    return None


def _makes_folder(error: BaseException) -> bool:
    """Return whether making a folder failed; the error code for an unsuitable parent differs between systems."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name in ("mkdir", "makedirs")


def _option_for(path: object, typed: Sequence[str]) -> str | None:
    """Return the typed output option whose value is a path or one of its parent folders."""
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
