"""What a checkpoint takes of the configuration of its run: a file that may be a stranger's."""

import logging
import os
from typing import Any

from lit_cv.cli.import_policy import untrusted_classes
from lit_cv.cli.runs import Checkpoint
from lit_cv.plain_values import read_yaml
from lit_cv.printable import printable
from lit_cv.registry import untrusted

__all__ = ["read_run_configuration"]

log = logging.getLogger("lit_cv")

# Sections that a run goes on with, and of which an evaluation needs no more than the first three.
_EVALUATION = ("model", "data", "trainer")
_FIT = (*_EVALUATION, "seed_everything", "checkpoint", "early_stopping", "ema", "non_finite", "find_lr")
_OUTPUTS = ("default_root_dir", "dirpath", "save_dir", "root_dir", "folder", "log_dir", "output_dir")
# Options of the Trainer that name objects beside its callbacks.
_OBJECTS = ("logger", "profiler", "plugins")


def read_run_configuration(checkpoint: Checkpoint, verb: str, given: set[str]) -> dict[str, Any]:
    """Read the configuration beside a checkpoint, say so, and return what the verb needs of it.

    Where results go, which loggers and profilers write, and code that the user has not named stay out: they are left
    to the command line. A run is not continued without its own code.

    Args:
        checkpoint: The checkpoint; its `config` is read.
        verb: The verb.
        given: Names of the options and sections that this command gives itself.

    Raises:
        ValueError: If it is no configuration, or names code that the verb cannot do without.
    """
    path = checkpoint.config
    content = {} if path is None else read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no configuration: expected keys such as model, data and trainer.")
    sections = {name: content[name] for name in (_FIT if verb == "fit" else _EVALUATION) if content.get(name)}
    trainer = sections.get("trainer")
    if "trainer.callbacks" in given and isinstance(trainer, dict):
        trainer.pop("callbacks", None)
    left_out = _leave_out_outputs(trainer)
    for name, section in list(sections.items()):
        if not (names := untrusted_classes(section)):
            continue
        if name == "model" or (name == "data" and {"data", "data.class_path"} & given):
            continue  # the checkpoint and this command say which
        if verb == "fit" or name == "data":
            raise untrusted(names[0], str(path))
        left_out += _leave_out_callbacks(section)
    log.info(
        "Configuration of the checkpoint's run: %s (%s)%s.",
        printable(str(path), lines=False),
        ", ".join(sections) or "nothing",
        f"; not taken: {printable(', '.join(dict.fromkeys(left_out)), lines=False)}" if left_out else "",
    )
    return sections


def _leave_out_outputs(trainer: Any) -> list[str]:
    """Take out of the Trainer's options what says where files are written, and return what that was."""
    if not isinstance(trainer, dict):
        return []
    found = []
    for name in (*_OUTPUTS, *_OBJECTS):
        if isinstance(trainer.get(name), str | list | dict):
            del trainer[name]
            found.append(f"trainer.{name}")
    callbacks = trainer.get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        arguments = callback.get("init_args") if isinstance(callback, dict) else None
        if not isinstance(arguments, dict):
            continue
        for name in (*_OUTPUTS, "filename"):
            if isinstance(value := arguments.get(name), str) and (name != "filename" or {"/", os.sep} & {*value}):
                del arguments[name]
                found.append(f"trainer.callbacks.{name}")
    return found


def _leave_out_callbacks(trainer: Any) -> list[str]:
    """Take out of the Trainer's options what names code that may not be imported, and return what that was."""
    if not isinstance(trainer, dict):
        return []
    found = []
    for name, value in list(trainer.items()):
        if not (names := untrusted_classes(value)):
            continue
        found += [f"{path} (--trust {path.partition('.')[0]})" for path in names]
        if name == "callbacks" and isinstance(value, list):
            trainer[name] = [callback for callback in value if not untrusted_classes(callback)]
        else:
            del trainer[name]
    return found
