"""One-line explanations of arguments that the parser refuses.

The parser itself prints dozens of lines. Here the options and classes of the command line and the configuration are
compared with the arguments of the chosen classes.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser

from lit_cv.cli.misfit import does_not_fit, has_class, leaves, misfit
from lit_cv.cli.option_names import arguments_of
from lit_cv.modules import BaseModule
from lit_cv.registry import resolve_class
from lit_cv.running.built_parts import GROUPS
from lit_cv.running.user_files import explain_missing_class, qualify_class, user_class_names
from lit_cv.suggest import nearest, nearest_option

__all__ = ["diagnose"]

_BASES: dict[str, type] = {
    "model": BaseModule,
    "data": L.LightningDataModule,
    "trainer.callbacks": L.Callback,
}
_PARTS: dict[str, type] = {"trainer": L.Trainer, **GROUPS}  # parts of a fixed class
_OF_COMMAND = (
    "config", "model", "data", "trainer.callbacks", "ckpt_path", "seed_everything", "weights_only", "verbose",
    "return_predictions", "images", "tta",
)  # fmt: skip
_OF_FIND_LR = ("find_lr.min_lr", "find_lr.max_lr", "find_lr.steps")
_BARE = ("help", "dry_run", "print_config")
_NO_CLASS = ("", "null", "None", "true", "false")
_MAX_LISTED = 8  # classes in a message


def diagnose(typed: Sequence[str], configuration: Mapping[str, Any]) -> str | None:
    """Describe the first problem of the arguments in one line, with the nearest valid name.

    Args:
        typed: The verb and its options, as typed.
        configuration: The merged configuration of recipes, configuration files and the checkpoint.

    Returns:
        The message, `None` if no problem was found.
    """
    options, stray = _split(typed[1:])
    if stray:
        return f"unexpected argument {stray!r}: options start with --; a recipe comes after --config."
    chosen = dict(_chosen(options, configuration))
    for option, name in chosen.items():
        if isinstance(problem := _find_class(option, name), str):
            return problem
    classes = {option: cls for option, name in chosen.items() if isinstance(cls := _find_class(option, name), type)}
    classes |= _PARTS
    for option, value in options:
        if option.endswith(".help"):
            prefix = option.removesuffix(".help")
            if _base(prefix) and value and isinstance(problem := _find_class(prefix, value, option), str):
                return problem
        elif not (typed[0] == "find-lr" and option in _OF_FIND_LR) and (
            wrong := _option_problem(option, value, classes)
        ):
            return wrong
    return (
        _missing(options, configuration, classes)
        or _configured_problem(configuration, classes)
        or _refused_object(options)
    )


def _split(args: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """Split arguments into options (without dashes) with their values, and the first argument that is neither."""
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
    """Yield the options that choose a class, with its name: first the configuration's, then the typed ones."""
    for option in ("model", "data"):
        yield from _named_classes(option, configuration.get(option))
    callbacks = (configuration.get("trainer") or {}).get("callbacks")
    for entry in callbacks if isinstance(callbacks, list) else ():
        yield from _named_classes("trainer.callbacks", entry)
    for option, value in options:
        base = _base(option)
        takes_class = option in _BASES or (base is not None and option.count(".") >= 1 and value.endswith("DataModule"))
        if takes_class and value not in _NO_CLASS and all(part.isidentifier() for part in value.split(".")):
            yield option, qualify_class(option, value)
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
    """Return the class that an option names, or a message why it cannot be used.

    Args:
        option: The option, without dashes.
        name: Name of the class.
        shown: The option as messages spell it.
    """
    base, shown = _base(option) or object, shown or option
    path = qualify_class(option, name)
    if reason := explain_missing_class(path):
        return f"--{shown}: {reason}"
    cls: type | None = next((each for each in _subclasses(base) if each.__name__ == path), None)
    if "." in path:
        with suppress(ValueError, ImportError):
            cls = resolve_class(path, base, f"--{shown}")
    if cls is None:
        return _no_class(shown, name, base)
    return _abstract(shown, path, cls) if inspect.isabstract(cls) else cls


def _no_class(option: str, name: str, base: type) -> str:
    concrete = [cls.__name__ for cls in _subclasses(base) if not inspect.isabstract(cls)]
    names, short = dict.fromkeys([*concrete, *user_class_names()]), name.rpartition(".")[2]
    hint = f": did you mean {short!r}?" if short in names and short != name else nearest(short, names)
    return f"--{option}: unknown class {name!r}{hint}"


def _abstract(option: str, name: str, cls: type) -> str:
    """Describe what an abstract class lacks, or list its concrete subclasses."""
    concrete = sorted(each.__name__ for each in _subclasses(cls) if not inspect.isabstract(each))
    if concrete:
        return f"--{option}: {name} is abstract; choose one of {', '.join(concrete)}."
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"--{option}: {name} cannot be built: it must define {' and '.join(missing)}."


def _option_problem(option: str, value: str, classes: Mapping[str, type]) -> str | None:
    """Describe why the chosen classes do not accept an option or its value."""
    if option in _OF_COMMAND or (option in classes and "." not in option):
        return None
    prefix = max((each for each in classes if option.startswith(f"{each}.")), key=len, default=None)
    if prefix is None:
        if _base(option) or option.startswith(tuple(f"{each}." for each in _BASES)):
            return None  # an option of a class that was not chosen
        valid = [*_OF_COMMAND, *(f"{part}.{name}" for part, cls in classes.items() for name in arguments_of(cls))]
        return f"unknown option --{option}{nearest_option(option, valid)} `--help` lists them."
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
        chosen = _find_class(option, value)
        return chosen if isinstance(chosen, str) else None
    return misfit(option, value, annotation)


def _no_argument(option: str, prefix: str, name: str, cls: type) -> str:
    """Describe an unknown argument of a class, with the nearest valid one or the classes that have it."""
    base = _base(prefix)
    if base is None:
        valid = [f"{prefix}.{each}" for each in arguments_of(cls)]
        return f"unknown option --{option}{nearest_option(option, valid)} `--help` lists them."
    owners = sorted(c.__name__ for c in _subclasses(base) if _is_ours(c) and name in arguments_of(c))
    if owners:
        more = ", ..." if len(owners) > _MAX_LISTED else ""
        return (
            f"{cls.__name__} has no argument `{name}` (--{option}). Classes that do: "
            f"{', '.join(owners[:_MAX_LISTED])}{more} (--{prefix} CLASS)."
        )
    hint = "."
    for candidates in ([cls], _subclasses(base)):
        if hint == ".":
            hint = nearest_option(option, {f"{prefix}.{name}": None for c in candidates for name in arguments_of(c)})
    return f"unknown option --{option}{hint} See `lit-cv fit --{prefix}.help {cls.__name__}`."


def _missing(
    options: Iterable[tuple[str, str]], configuration: Mapping[str, Any], classes: Mapping[str, type]
) -> str | None:
    typed = {option for option, _ in options}
    for option in ("model", "data"):
        if option not in classes:
            return f"no {option}: give --config RECIPE (`lit-cv recipes` lists them) or --{option} CLASS."
    for prefix, cls in classes.items():
        configured = _arguments(prefix, configuration)
        for name, parameter in inspect.signature(cls).parameters.items():
            required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if required and name not in configured and f"{prefix}.{name}" not in typed:
                return f"{cls.__name__} needs --{prefix}.{name}: see `lit-cv fit --{prefix}.help {cls.__name__}`."
    return None


def _configured_problem(configuration: Mapping[str, Any], classes: Mapping[str, type]) -> str | None:
    """Describe the first value of a configuration that the chosen classes do not accept."""
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
    """Describe the first Trainer option with an invalid object, found by parsing each option alone."""
    for option, value in options:
        prefix, _, name = option.partition(".")
        if prefix != "trainer" or name == "callbacks" or not has_class(annotation := _annotation(L.Trainer, name)):
            continue
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=annotation)
        try:
            parser.parse_args([f"--value={value}"])
        except ArgumentError:
            return does_not_fit(option, value, annotation)
    return None


def _arguments(prefix: str, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a part in a configuration."""
    section: Any = configuration
    for part in prefix.split("."):
        section = section.get(part) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and "class_path" in section:
            section = section.get("init_args")
    return section if isinstance(section, Mapping) else {}


def _base(option: str) -> type | None:
    """Return the base class of an option's classes; a DataModule may contain others (`data.source`)."""
    return _BASES.get(option) or (L.LightningDataModule if option.startswith("data.") else None)


def _annotation(cls: type, name: str) -> object:
    """Return the annotation of a constructor argument, inherited ones included."""
    for base in inspect.getmro(cls):
        if "__init__" in vars(base) and (parameter := inspect.signature(base).parameters.get(name)) is not None:
            return parameter.annotation
    return inspect.Parameter.empty


def _takes_data(annotation: object) -> bool:
    """Return whether an annotation accepts a DataModule."""
    return any(isinstance(leaf, type) and issubclass(leaf, L.LightningDataModule) for leaf in leaves(annotation))


def _subclasses(base: type[object]) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _is_ours(cls: type) -> bool:
    return not cls.__module__.startswith(("lightning.", "pytorch_lightning.", "torch.")) and not inspect.isabstract(cls)
