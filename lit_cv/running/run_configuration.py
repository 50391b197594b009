"""Read the configuration of a checkpoint's run, a file that may come from a stranger."""

import logging
from typing import Any

from lit_cv.plain_values import read_yaml
from lit_cv.printable import printable
from lit_cv.running.import_policy import untrusted_classes
from lit_cv.running.runs import Checkpoint
from lit_cv.running.training_options import kept_options
from lit_cv.trust import untrusted_error

__all__ = ["read_run_configuration"]

log = logging.getLogger("lit_cv")

_CLASSES = ("model", "data")
_GROUPS = ("checkpoint", "early_stopping", "ema", "non_finite")  # kept by a resumed run


def read_run_configuration(checkpoint: Checkpoint, verb: str, set_here: set[str]) -> dict[str, Any]:
    """Read the configuration of a checkpoint's run, log it, and return the parts that the verb needs.

    These are the model, the data, and the Trainer options that affect training. Output folders, loggers, profilers,
    the number of processes for evaluation, and classes of modules that the user has not named are left to the command
    line. A run that needs such classes cannot be resumed without naming their modules.

    Args:
        checkpoint: The checkpoint; its `config` is read.
        verb: The verb.
        set_here: Names of the options and sections that this command sets itself.

    Raises:
        ValueError: If the file is not a configuration, or names untrusted classes that the verb needs.
    """
    path, fits = str(checkpoint.config), verb == "fit"
    content = {} if checkpoint.config is None else read_yaml(checkpoint.config)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a configuration: expected keys such as model, data and trainer.")
    trainer = _section(content, "trainer", path)
    if "trainer.callbacks" in set_here:
        trainer.pop("callbacks", None)
    sections = {name: content[name] for name in _CLASSES if content.get(name) is not None}
    for name, section in sections.items():
        _require_class(name, section, path)
        if (
            name == "data"
            and not {"data", "data.class_path"} & set_here
            and (names := untrusted_classes(section, name))
        ):
            raise untrusted_error(names[0], path)
    if fits and (names := untrusted_classes(trainer)):
        raise untrusted_error(names[0], path)
    kept, left_out = kept_options(trainer, ranks=fits)
    sections |= {"trainer": kept} if kept else {}
    for name in _GROUPS if fits else ():
        if group := _section(content, name, path):
            if not all(value is None or isinstance(value, str | int | float) for value in group.values()):
                raise ValueError(f"{path}: {name} must contain only numbers and strings.")
            sections[name] = group
    seed = content.get("seed_everything")
    if fits and isinstance(seed, int) and 0 <= seed < 1 << 32:
        sections["seed_everything"] = seed
    log.info(
        "Configuration of the checkpoint's run: %s (%s)%s.",
        printable(path, lines=False),
        ", ".join(sections) or "nothing",
        f"; ignored: {printable(', '.join(dict.fromkeys(left_out)), lines=False)[:1000]}" if left_out else "",
    )
    return sections


def _section(content: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    """Return a section as a mapping of option names to values."""
    section = content.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict) or not all(isinstance(key, str) and key.isidentifier() for key in section):
        raise ValueError(f"{path}: {name} must be a mapping of option names to values.")
    return section


def _require_class(name: str, section: Any, path: str) -> None:
    """Refuse a section that is not a class with its arguments, or has dotted names, which the parser would split."""
    has_class_keys = isinstance(section, dict) and set(section) <= {"class_path", "init_args", "dict_kwargs"}
    if not (has_class_keys and _plain_names(section)) and not (isinstance(section, str) and _is_name(section)):
        raise ValueError(f"{path}: {name} must consist of class_path and init_args.")


def _plain_names(value: Any) -> bool:
    if isinstance(value, dict):
        return all("." not in str(key) and _plain_names(part) for key, part in value.items())
    return all(map(_plain_names, value)) if isinstance(value, list) else True


def _is_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))
