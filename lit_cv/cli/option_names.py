"""Spell constructor arguments in messages as the options of the running command."""

import inspect
import re
from collections.abc import Iterable, Sequence

from lit_cv.cli.overview import VERBS
from lit_cv.errors import COMMAND, DATA, FIT, MODULE, TRAINER, Part

__all__ = ["OptionNames", "output_option", "with_trainer_option"]

_OF_FIT = ("fit", "validate", "test", "predict", "knn", "find-lr", "kfold")  # verbs with the options of all parts
_OUTPUTS = {
    "kfold": "--output",
    "compare": "--output",
    "curves": "--output",
    "export": "--output",
    "convert": "--out",
    "agreement": "--out",
    "predict": "--predictions.folder",
}
_PARTS = {DATA: "data", MODULE: "model", "find_learning_rate": "find_lr"}  # by the owner's name in messages
_CALLBACKS = "trainer.callbacks"


class OptionNames:
    """Spells arguments as the options of a command.

    Args:
        args: The verb and its options, as typed.

    Example:
        >>> from lit_cv.callbacks import EMA
        >>> from lit_cv.errors import argument, spelled_by
        >>> with spelled_by(OptionNames(["fit"])):
        ...     print(argument("decay", EMA), argument("devices", TRAINER))
        --ema.decay --trainer.devices
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._verb = next((token for token in args if token in VERBS), "")
        self._typed = [
            token[2:].partition("=")[0].rstrip("+").replace(".init_args.", ".") for token in args if token[:2] == "--"
        ]
        self._parts: list[Part] = []

    def announce(self, parts: Iterable[Part]) -> None:
        """Store the objects that the command builds; a part without a name holds the options of the verb itself."""
        parts = list(parts)
        replaced = {part.name.partition(".")[0] for part in parts}
        self._parts = [part for part in self._parts if part.name.partition(".")[0] not in replaced] + parts

    def spell(self, owner: type | str | None, name: str, path: tuple[str, ...], value: object) -> str | None:
        """Return the option of an argument, `None` if the command has none."""
        if owner == "names_of_files":
            return "--trust"
        if owner == COMMAND:
            return f"--{name}"
        if owner == FIT:
            return f"--{name}" if self._verb in _OF_FIT and self._verb != "kfold" else None
        if owner == TRAINER:
            if name == "default_root_dir":
                return output_option(self._verb)
            return f"--trainer.{name}" if self._verb in (*_OF_FIT, "compare") else None
        if self._verb not in _OF_FIT:
            return self._of_verb(owner, name)
        if path:
            return f"--{'.'.join(('data', *path, name))}"
        return self._of_part(owner, name, value)

    def _of_verb(self, owner: type | str | None, name: str) -> str | None:
        """Return the option of a verb that does not expose the options of all parts."""
        names = [key for part in self._parts if not part.name for key in part.arguments]
        option = next((f"--{key}" for key in (name, name.removesuffix("s")) if key in names), None)
        if self._verb != "compare":
            return option
        if owner == DATA or (isinstance(owner, type) and _group(owner) == "data"):
            return f"--data.{name}"
        of_data = any(part.name == "data" and name in arguments_of(part.cls) for part in self._parts)
        return f"--data.{name}" if option is None and owner is None and of_data else option

    def _of_part(self, owner: type | str | None, name: str, value: object) -> str | None:
        """Return the option of the part that owns the argument; of several, the typed one or one with this value."""
        parts = [part for part in self._parts if _is_owner(owner, part)]
        group = _PARTS.get(owner) if isinstance(owner, str) else _group(owner)
        if not parts and group:
            return f"--{self._typed_option(group, name) or f'{group}.{name}'}"
        if not parts and owner is not None:
            return self._of_part(None, name, value)
        first = name.partition(".")[0]
        owners = [part for part in parts if first in part.arguments or first in arguments_of(part.cls)]
        options = {f"{part.name}.{name}".lstrip("."): part.arguments.get(first, ...) for part in owners}
        typed = [option for option in options if option in self._typed]
        equal = [option for option, actual in options.items() if value is not ... and _equals(actual, value)]
        candidates = [*typed, *equal, *options]
        if not candidates or (
            owner is None and not typed and len({option.partition(".")[0] for option in options}) > 1
        ):
            return None
        return f"--{candidates[0]}"

    def _typed_option(self, group: str, name: str) -> str | None:
        prefixes = (f"{group}.",) if group in ("model", "data") else (f"{group}.", f"{_CALLBACKS}.")
        return next((each for each in self._typed if each.startswith(prefixes) and each.endswith(f".{name}")), None)


def output_option(verb: str) -> str:
    """Return the option for the output folder or file of a verb.

    Args:
        verb: The verb.
    """
    return _OUTPUTS.get(verb, "--trainer.default_root_dir")


def arguments_of(cls: type | None) -> list[str]:
    """Return the names of the constructor arguments of a class, followed by those of its bases."""
    names: dict[str, None] = {}
    for base in inspect.getmro(cls) if cls else ():
        if "__init__" in vars(base):
            parameters = list(inspect.signature(base).parameters.values())
            names |= {p.name: None for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return list(names)


def with_trainer_option(text: str) -> str:
    """Return an error message of the Trainer in one line, with the option that it is about.

    Args:
        text: The message.

    Example:
        >>> with_trainer_option("`max_epochs` must be a non-negative integer or -1.")
        '`max_epochs` must be a non-negative integer or -1 (--trainer.max_epochs).'
    """
    from lightning import Trainer

    text = " ".join(text.split())
    arguments = inspect.signature(Trainer).parameters
    for name in re.findall(r"\w+", text):
        if name in arguments and ("_" in name or f"{name}=" in text or f"`{name}`" in text):
            return f"{text.removesuffix('.')} (--trainer.{name})" + "." * text.endswith(".")
    return text


def _is_owner(owner: type | str | None, part: Part) -> bool:
    if owner is None:
        return not part.name.startswith("find_lr")
    if isinstance(owner, str):
        names = [base.__name__ for base in inspect.getmro(part.cls)] if part.cls else []
        return owner in names or _PARTS.get(owner) == part.name.partition(".")[0]
    return part.cls is not None and issubclass(part.cls, owner)


def _group(owner: type | None) -> str | None:
    """Return the option group of a class that the command has not built yet."""
    import lightning as L

    from lit_cv.running.built_parts import GROUPS

    groups = (
        *((cls, group) for group, cls in GROUPS.items()),
        (L.Callback, _CALLBACKS),
        (L.LightningModule, "model"),
        (L.LightningDataModule, "data"),
    )
    return next((group for base, group in groups if owner and issubclass(owner, base)), None)


def _equals(actual: object, value: object) -> bool:
    return type(actual) is type(value) and actual == value
