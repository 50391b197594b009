"""One line for what the parser says in sixty."""

import argparse
import inspect
import re
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from lit_cv.cli.option_names import arguments_of
from lit_cv.running.error_origin import raised_here
from lit_cv.running.own_files import own_classes, why_not
from lit_cv.suggest import nearest, nearest_option

__all__ = ["explain", "explain_value", "is_for_the_user", "is_of_trainer"]

_NO_NAME = re.compile(r"\b(True|False|None|nan|inf|\d+\.\d+(e[-+]?\d+)?)\b")  # what YAML makes of some names
_CLASSES: dict[str, type] = {
    "model": L.LightningModule,
    "data": L.LightningDataModule,
    "trainer.callbacks": L.Callback,
}


def explain(message: str, parser: LightningArgumentParser, typed: Sequence[str] = ()) -> str:
    """Say in one line what is wrong with the arguments, with the nearest valid name.

    Args:
        message: What jsonargparse says.
        parser: The parser that said it, which knows the valid options.
        typed: The arguments as they were given, which say whose option a message is about.
    """
    text = " ".join(message.split())
    if said := _class_error(text, typed):
        return said
    if match := re.fullmatch(r"unrecognized arguments: ([^-]\S*)", text):
        return f"there is no argument {match[1]!r}: options start with --, a recipe comes after --config."
    if match := re.search(r"unrecognized arguments: --([\w.]+)", text):
        return f"no option --{match[1]}{nearest_option(match[1], _options(parser))} `--help` lists them."
    if match := re.search(r"[Oo]ption '([\w.]+)'", text):
        return _unknown_option(match[1].removesuffix(".class_path").removesuffix(".init_args"), parser, typed)
    if match := re.search(r"required: \w+\.(\w+)", text):
        return f"no {match[1]}: give --config RECIPE (`lit-cv recipes` lists them) or --{match[1]} CLASS."
    if match := re.search(r"required: (\w+)$", text):
        owners = [(prefix, c) for prefix, base in _CLASSES.items() for c in _subclasses(base) if _needs(c, match[1])]
        if owners:
            prefix, name = owners[0][0], owners[0][1].__name__
            return f"{name} needs --{prefix}.{match[1]}: `lit-cv fit --{prefix}.help {name}` tells of it."
    key, value = _typed(_key(text), typed), _given(text)
    if "." not in key:  # the arguments of a class come without the option's first part
        key = next((name for name in _options(parser) if name.endswith(f".{key}")), key)
    return explain_value(text, key, value) or text


def explain_value(message: str, key: str = "", value: str = "") -> str | None:
    """Say in one line that a value does not fit its option, `None` where a message is about something else.

    Args:
        message: What jsonargparse says, in one line.
        key: The option without dashes; "" takes that of the message.
        value: What was given, likewise.
    """
    key, value = key or _key(message), value or _given(message)
    expected = dict.fromkeys(re.findall(r"Expected an? (.+?)(?= - |\. Got| Given|$)", message))
    if not key or not expected:
        return None
    names = re.search(r"Given value: (\[[^\[\]]*\])$", message)
    if names and re.search(r"list\[[^\]]*\bstr\b", message) and _NO_NAME.search(names[1]):
        return (
            f"--{key} {names[1]}: names such as no, yes, null and 1e3 are other values in YAML. Put them in quotes: "
            f'--{key} \'["no", "yes"]\''
        )
    allowed = " or ".join(map(_readable, expected))
    if allowed == "null" and (base := _base(key)):  # what was given is no class of that kind
        return _no_class(key, value, base)
    hint = nearest(value, re.findall(r"'([^']+)'", allowed)).removesuffix(".")
    return f"--{key} {value} does not fit: expected {allowed}{hint}"


def _class_error(text: str, typed: Sequence[str]) -> str | None:
    """Say why a class is not to be had, `None` where a message is about something else."""
    if match := re.match(r"--([\w.]+)\.help: ", text):
        key, name = match[1], _following(f"--{match[1]}.help", typed)
        option = f"{key}.help"
    else:
        key, name = _typed(_key(text), typed), _given(text)
        option = key
    base = _base(key)
    if base is None or not re.search(r"(Module|Callback)\b|dot import path|class_path|\.help: ", text):
        return None
    if why := why_not(name):
        return f"--{option}: {why}"
    if re.search(r"instantiatable class, but \S+ is abstract", text):
        return _abstract(option, name, base)
    if re.search(r"Expected a dot import path string|Problem with given class_path|not a subclass", text, re.I):
        return _no_class(option, name or text.rpartition(" ")[2], base)
    return None


def _no_class(option: str, name: str, base: type[object]) -> str:
    known = [cls.__name__ for cls in _subclasses(base) if not inspect.isabstract(cls)]
    names, short = dict.fromkeys([*known, *own_classes()]), name.rpartition(".")[2]
    hint = f": did you mean {short!r}?" if short in names and short != name else nearest(short, names)
    return f"--{option}: no class {name!r}{hint}"


def _abstract(option: str, name: str, base: type[object]) -> str:
    """Say what a class lacks, or which to take in place of one that others have in common."""
    short = name.rpartition(".")[2]
    cls = next((cls for cls in _subclasses(base) if cls.__name__ == short), None)
    kinds = [] if cls is None else sorted(c.__name__ for c in _subclasses(cls) if not inspect.isabstract(c))
    if kinds:
        return f"--{option}: {name} is what others have in common: choose {', '.join(kinds)}."
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"--{option}: {name} cannot be built: it must define {' and '.join(lacking) or 'its abstract methods'}."


def _following(option: str, typed: Sequence[str]) -> str:
    """Return what was typed after an option."""
    for index, token in enumerate(typed):
        name, equals, value = token.partition("=")
        if name == option:
            return value if equals else "".join(typed[index + 1 : index + 2])
    return ""


def _unknown_option(name: str, parser: LightningArgumentParser, typed: Sequence[str]) -> str:
    """Say that a class has no such argument, with the nearest one of the classes that it was meant for."""
    whole = _typed(name, typed)
    prefix = whole.removesuffix(name).removesuffix(".")
    base = _base(prefix)
    if base is None:
        return f"no option --{whole}{nearest_option(whole, _options(parser))}"
    names = {argument for cls in _subclasses(base) if _is_ours(cls) for argument in arguments_of(cls)}
    if name in names:
        owners = sorted(c.__name__ for c in _subclasses(base) if _is_ours(c) and name in arguments_of(c))
        return f"no option --{whole} with the class chosen: {', '.join(owners[:8])} have it (--{prefix} CLASS)."
    near = nearest_option(whole, (f"{prefix}.{argument}" for argument in names))
    return f"no option --{whole}{near} `--{prefix}.help CLASS` lists those of a class."


def _base(option: str) -> type[object] | None:
    """Return what the classes that an option takes derive from; a DataModule may hold others (`data.source`)."""
    return _CLASSES.get(option) or (L.LightningDataModule if option.startswith("data.") else None)


def _typed(name: str, typed: Sequence[str]) -> str:
    """Return the whole option that was typed, of which a message gives the last part."""
    given = (token[2:].partition("=")[0] for token in typed if token.startswith("--"))
    return next((option for option in given if option.endswith(f".{name}")), name)


def _is_ours(cls: type) -> bool:
    return not cls.__module__.startswith(("lightning.", "pytorch_lightning.", "torch."))


def is_for_the_user(error: Exception) -> bool:
    """Tell whether an error says what the user can change: one of this project's own, the Trainer's or the system's."""
    if isinstance(error, MisconfigurationException | OSError) or _refused_by_lightning(error):
        return True
    kinds = (ValueError, TypeError, ImportError)
    if not isinstance(error, kinds) or isinstance(error, ModuleNotFoundError):
        return False
    return raised_here(error) or is_of_trainer(error)


def is_of_trainer(error: BaseException) -> bool:
    """Tell whether the Trainer raised an error about what it was given: the devices, for example."""
    if isinstance(error, MisconfigurationException) or _refused_by_lightning(error):
        return True
    return any("accelerator_connector" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _refused_by_lightning(error: BaseException) -> bool:
    """Tell whether Lightning raised an error on purpose, about an option, a package that is missing, or a metric."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    home = Path(L.__file__).parent
    return home in Path(frames[-1].filename).parents and str(frames[-1].line).startswith("raise ")


def _key(text: str) -> str:
    match = re.search(r'Parser key "([\w.]+)"', text)
    return match[1] if match else ""


def _given(text: str) -> str:
    match = re.search(r"(?:Given value|Got value): (?:\{'class_path': '([\w.]+)'|(.+?)$)", text)
    return (match[1] or match[2]).strip() if match else ""


def _readable(expected: str) -> str:
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected)
    expected = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", expected)
    return expected.replace("NoneType", "null").rstrip(". ")


def _options(parser: LightningArgumentParser) -> list[str]:
    """Return the names of all options: the parser's own, and the arguments of every class that it can build."""
    names = _own_names(parser)
    for prefix, base in _CLASSES.items():
        names += [f"{prefix}.{argument}" for c in _subclasses(base) if _is_ours(c) for argument in arguments_of(c)]
    return list(dict.fromkeys(names))


def _own_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of a parser's options, or of its verbs'; those of a class lack its part, and are left out."""
    verbs = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    names = [action.dest for action in parser._actions if action.dest not in ("help", "==SUPPRESS==")]
    names = names if "config" in names else []
    return names + [name for choices in verbs for verb in choices.values() for name in _own_names(verb)]


def _subclasses(base: type[object]) -> Iterable[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _needs(cls: type, name: str) -> bool:
    own = inspect.signature(cls).parameters.get(name)
    return _is_ours(cls) and own is not None and own.default is own.empty
