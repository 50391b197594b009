"""What is wrong with the arguments of a command that the parser refuses, by this project's own tables.

The parser says it in dozens of lines, for any program. Here the options and classes that were typed, and those of the
configuration, are compared with what the chosen classes take.
"""

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser
from yaml import YAMLError

from lit_cv.cli.option_names import arguments_of
from lit_cv.modules import BaseModule
from lit_cv.plain_values import load_yaml
from lit_cv.registry import resolve_class
from lit_cv.running.built_parts import GROUPS
from lit_cv.running.own_files import in_own_file, own_classes, why_not
from lit_cv.suggest import nearest, nearest_option

__all__ = ["diagnose", "misfit"]

_BASES: dict[str, type] = {
    "model": BaseModule,
    "data": L.LightningDataModule,
    "trainer.callbacks": L.Callback,
}
_PARTS: dict[str, type] = {"trainer": L.Trainer, **GROUPS}  # whose class is not chosen
_OF_COMMAND = (
    "config", "model", "data", "trainer.callbacks", "ckpt_path", "seed_everything", "weights_only", "verbose",
    "return_predictions", "images", "tta",
)  # fmt: skip
_OF_FIND_LR = ("find_lr.min_lr", "find_lr.max_lr", "find_lr.steps")
_BARE = ("help", "dry_run", "print_config")
_NO_CLASS = ("", "null", "None", "true", "false")
_SHOWN = 8  # classes that a message lists


def diagnose(typed: Sequence[str], configuration: Mapping[str, Any]) -> str | None:
    """Return what is wrong with arguments in one line, with the nearest valid name; `None` if all seems right.

    Args:
        typed: The verb and its options.
        configuration: What recipes, configuration files and the checkpoint give.
    """
    options, stray = _split(typed[1:])
    if stray:
        return f"there is no argument {stray!r}: options start with --, a recipe comes after --config."
    chosen = dict(_chosen(options, configuration))
    for option, name in chosen.items():
        if isinstance(found := _find_class(option, name), str):
            return found
    classes = {option: cls for option, name in chosen.items() if isinstance(cls := _find_class(option, name), type)}
    classes |= _PARTS
    for option, value in options:
        if option.endswith(".help"):
            prefix = option.removesuffix(".help")
            if _base(prefix) and value and isinstance(found := _find_class(prefix, value, option), str):
                return found
        elif not (typed[0] == "find-lr" and option in _OF_FIND_LR) and (
            problem := _option_problem(option, value, classes)
        ):
            return problem
    return (
        _missing(options, configuration, classes)
        or _configured_problem(configuration, classes)
        or _refused_object(options)
    )


def misfit(option: str, value: object, annotation: object, typed: bool = True) -> str | None:
    """Return in one line that a value does not fit its option, `None` if it does or only the parser can know.

    Args:
        option: The option, without dashes.
        value: What was given.
        annotation: What it takes.
        typed: Whether the value is text that was typed, which is read as YAML.

    Example:
        >>> misfit("data.channels", "x", Literal[1, 3])
        '--data.channels x does not fit: expected one of 1, 3'
    """
    if annotation is inspect.Parameter.empty or _has_class(annotation) or (typed and str in _members(annotation)):
        return None
    if typed:
        with suppress(ValueError, YAMLError):
            value = load_yaml(str(value), f"--{option}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return _does_not_fit(option, value, annotation)
    return None


def _does_not_fit(option: str, value: object, annotation: object) -> str:
    entries = value if isinstance(value, list) and str in _leaves(annotation) else []
    if any(isinstance(entry, bool | float | None) for entry in entries):
        return (
            f"--{option} {value}: names such as no, yes, null and 1e3 are other values in YAML. Put them in quotes: "
            f'--{option} \'["no", "yes"]\''
        )
    words = [word for word in _leaves(annotation) if isinstance(word, str)]
    hint = nearest(str(value), words).removesuffix(".")
    return f"--{option} {value} does not fit: expected {_readable(annotation)}{hint}"


def _split(args: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """Return the options without dashes with their values, and the first argument that is neither."""
    options: list[tuple[str, str]] = []
    tokens = iter(args)
    for token in tokens:
        if token == "-c":
            token = "--config"
        if not token.startswith("--"):
            return options, "" if token == "-h" else token
        name, equals, value = token[2:].partition("=")
        if not equals and name not in _BARE:
            value = next(tokens, "")
        name = name.replace(".init_args.", ".").removesuffix(".class_path")
        if name.rstrip("+") not in _BARE:
            options.append((name.rstrip("+"), value))
    return options, ""


def _chosen(options: Iterable[tuple[str, str]], configuration: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options that choose a class, with its name: those of the configuration, and over them those typed."""
    for option in ("model", "data"):
        yield from _named_classes(option, configuration.get(option))
    given = (configuration.get("trainer") or {}).get("callbacks")
    for entry in given if isinstance(given, list) else ():
        yield from _named_classes("trainer.callbacks", entry)
    for option, value in options:
        base = _base(option)
        takes = option in _BASES or (base is not None and option.count(".") >= 1 and value.endswith("DataModule"))
        if takes and value not in _NO_CLASS and all(part.isidentifier() for part in value.split(".")):
            yield option, in_own_file(option, value)
        elif option in ("model", "data"):
            yield option, value


def _named_classes(option: str, section: object) -> Iterator[tuple[str, str]]:
    if isinstance(section, str):
        yield option, section
    if isinstance(section, Mapping) and isinstance(path := section.get("class_path"), str):
        yield option, path
        arguments = section.get("init_args")
        for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
            if isinstance(value, Mapping) and "class_path" in value and option != "model":
                yield from _named_classes(f"{option}.{name}", value)


def _find_class(option: str, name: str, shown: str | None = None) -> type | str:
    """Return the class that an option names, or why it is not to be had.

    Args:
        option: The option, without dashes.
        name: The name.
        shown: The option as a message names it.
    """
    base, shown = _base(option) or object, shown or option
    path = in_own_file(option, name)
    if why := why_not(path):
        return f"--{shown}: {why}"
    found: type | None = next((cls for cls in _subclasses(base) if cls.__name__ == path), None)
    if "." in path:
        with suppress(ValueError, ImportError):
            found = resolve_class(path, base, f"--{shown}")
    if found is None:
        return _no_class(shown, name, base)
    return _abstract(shown, path, found) if inspect.isabstract(found) else found


def _no_class(option: str, name: str, base: type) -> str:
    concrete = [cls.__name__ for cls in _subclasses(base) if not inspect.isabstract(cls)]
    names, short = dict.fromkeys([*concrete, *own_classes()]), name.rpartition(".")[2]
    hint = f": did you mean {short!r}?" if short in names and short != name else nearest(short, names)
    return f"--{option}: no class {name!r}{hint}"


def _abstract(option: str, name: str, cls: type) -> str:
    """Say what a class lacks, or which to choose in place of one that others have in common."""
    kinds = sorted(each.__name__ for each in _subclasses(cls) if not inspect.isabstract(each))
    if kinds:
        return f"--{option}: {name} is abstract; choose one of {', '.join(kinds)}."
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"--{option}: {name} cannot be built: it must define {' and '.join(missing)}."


def _option_problem(option: str, value: str, classes: Mapping[str, type]) -> str | None:
    """Return why no chosen class takes an option, or takes it with this value."""
    if option in _OF_COMMAND or (option in classes and "." not in option):
        return None
    prefix = max((each for each in classes if option.startswith(f"{each}.")), key=len, default=None)
    if prefix is None:
        if _base(option) or option.startswith(tuple(f"{each}." for each in _BASES)):
            return None  # of a class that is missing
        known = [*_OF_COMMAND, *(f"{part}.{name}" for part, cls in classes.items() for name in arguments_of(cls))]
        return f"no option --{option}{nearest_option(option, known)} `--help` lists them."
    cls = classes[prefix]
    name, _, deeper = option.removeprefix(f"{prefix}.").partition(".")
    if name == "dict_kwargs":
        return None
    if name not in arguments_of(cls):
        return _no_argument(option, prefix, name, cls)
    if deeper:
        return None
    annotation = _annotation(cls, name)
    if _takes_data(annotation) and value not in _NO_CLASS and all(part.isidentifier() for part in value.split(".")):
        found = _find_class(option, value)
        return found if isinstance(found, str) else None
    return misfit(option, value, annotation)


def _no_argument(option: str, prefix: str, name: str, cls: type) -> str:
    """Say that a class has no such argument, with the nearest one that it has, or the classes that have it."""
    base = _base(prefix)
    if base is None:
        known = [f"{prefix}.{each}" for each in arguments_of(cls)]
        return f"no option --{option}{nearest_option(option, known)} `--help` lists them."
    owners = sorted(c.__name__ for c in _subclasses(base) if _is_ours(c) and name in arguments_of(c))
    if owners:
        more = ", ..." if len(owners) > _SHOWN else ""
        return (
            f"{cls.__name__} has no argument `{name}` (--{option}). Classes that do: "
            f"{', '.join(owners[:_SHOWN])}{more} (--{prefix} CLASS)."
        )
    near = "."
    for kinds in ([cls], _subclasses(base)):
        if near == ".":
            near = nearest_option(option, {f"{prefix}.{each}": None for kind in kinds for each in arguments_of(kind)})
    return f"no option --{option}{near} See `lit-cv fit --{prefix}.help {cls.__name__}`."


def _missing(
    options: Iterable[tuple[str, str]], configuration: Mapping[str, Any], classes: Mapping[str, type]
) -> str | None:
    given = {option for option, _ in options}
    for option in ("model", "data"):
        if option not in classes:
            return f"no {option}: give --config RECIPE (`lit-cv recipes` lists them) or --{option} CLASS."
    for prefix, cls in classes.items():
        configured = _arguments(prefix, configuration)
        for name, parameter in inspect.signature(cls).parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if needed and name not in configured and f"{prefix}.{name}" not in given:
                return f"{cls.__name__} needs --{prefix}.{name}: see `lit-cv fit --{prefix}.help {cls.__name__}`."
    return None


def _configured_problem(configuration: Mapping[str, Any], classes: Mapping[str, type]) -> str | None:
    """Return which value of a configuration no chosen class takes."""
    for prefix, cls in classes.items():
        for name, value in _arguments(prefix, configuration).items():
            if prefix == "trainer" and name in ("callbacks", "logger", "plugins", "strategy", "profiler"):
                continue
            if name not in arguments_of(cls):
                return _no_argument(f"{prefix}.{name}", prefix, name, cls)
            if value is not None and (problem := misfit(f"{prefix}.{name}", value, _annotation(cls, name), False)):
                return problem
    return None


def _refused_object(options: Iterable[tuple[str, str]]) -> str | None:
    """Return which option of the Trainer names no object that it takes, by asking the parser about it alone."""
    for option, value in options:
        prefix, _, name = option.partition(".")
        if prefix != "trainer" or name == "callbacks" or not _has_class(annotation := _annotation(L.Trainer, name)):
            continue
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=annotation)
        try:
            parser.parse_args([f"--value={value}"])
        except ArgumentError:
            return _does_not_fit(option, value, annotation)
    return None


def _arguments(prefix: str, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments that a configuration gives to a part."""
    section: Any = configuration
    for part in prefix.split("."):
        section = section.get(part) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and "class_path" in section:
            section = section.get("init_args")
    return section if isinstance(section, Mapping) else {}


def _base(option: str) -> type | None:
    """Return what the classes that an option takes derive from; a DataModule may hold others (`data.source`)."""
    return _BASES.get(option) or (L.LightningDataModule if option.startswith("data.") else None)


def _annotation(cls: type, name: str) -> object:
    """Return what an argument of a class takes."""
    for base in inspect.getmro(cls):
        if "__init__" in vars(base) and (parameter := inspect.signature(base).parameters.get(name)) is not None:
            return parameter.annotation
    return inspect.Parameter.empty


def _members(annotation: object) -> tuple[object, ...]:
    """Return the types of a union, or a type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _leaves(annotation: object) -> list[object]:
    """Return the types and the words of `Literal` that an annotation is made of."""
    parts = get_args(annotation)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [annotation]


def _has_class(annotation: object) -> bool:
    """Tell whether an annotation takes objects, whose classes the parser looks for."""
    if get_origin(annotation) is Literal:
        return False
    if parts := get_args(annotation):
        return any(map(_has_class, parts))
    return annotation not in (str, int, float, bool, list, dict, tuple, set, type(None), Any, ...)


def _takes_data(annotation: object) -> bool:
    """Tell whether an annotation takes a DataModule."""
    return any(isinstance(leaf, type) and issubclass(leaf, L.LightningDataModule) for leaf in _leaves(annotation))


def _readable(annotation: object) -> str:
    if len(members := _members(annotation)) > 1:
        return " or ".join(map(_readable, members))
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, get_args(annotation)))}"
    if annotation is type(None):
        return "null"
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_args(annotation)
        else re.sub(r"\w+\.", "", str(annotation))
    )


def _subclasses(base: type[object]) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _is_ours(cls: type) -> bool:
    return not cls.__module__.startswith(("lightning.", "pytorch_lightning.", "torch.")) and not inspect.isabstract(cls)
