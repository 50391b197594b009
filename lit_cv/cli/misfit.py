"""Explanations why an option does not accept a value, from the annotation of its type."""

import inspect
import re
import types
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser
from yaml import YAMLError

from lit_cv.plain_values import load_yaml
from lit_cv.suggest import nearest

__all__ = ["does_not_fit", "has_class", "leaves", "misfit"]


def misfit(option: str, value: object, annotation: object, typed: bool = True) -> str | None:
    """Describe in one line why an option does not accept a value.

    Args:
        option: The option, without dashes.
        value: The value.
        annotation: The type of the option.
        typed: Whether the value is typed text, to be parsed as YAML.

    Returns:
        The message, `None` if the value is valid or only the parser can tell.

    Example:
        >>> misfit("data.channels", "x", Literal[1, 3])
        '--data.channels x: expected one of 1, 3'
    """
    if annotation is inspect.Parameter.empty or has_class(annotation) or (typed and str in _members(annotation)):
        return None
    if typed:
        with suppress(ValueError, YAMLError):
            value = load_yaml(str(value), f"--{option}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return does_not_fit(option, value, annotation)
    return None


def does_not_fit(option: str, value: object, annotation: object) -> str:
    """Return the message that an option does not accept a value, with the values of its type."""
    entries = value if isinstance(value, list) and str in leaves(annotation) else []
    if any(isinstance(entry, bool | float | None) for entry in entries):
        return (
            f"--{option} {value}: names such as no, yes, null and 1e3 mean something else in YAML. Put them in quotes: "
            f'--{option} \'["no", "yes"]\''
        )
    words = [word for word in leaves(annotation) if isinstance(word, str)]
    hint = nearest(str(value), words).removesuffix(".")
    return f"--{option} {value}: expected {_readable(annotation)}{hint}"


def has_class(annotation: object) -> bool:
    """Return whether an annotation contains classes, which only the parser can resolve."""
    if get_origin(annotation) is Literal:
        return False
    if parts := get_args(annotation):
        return any(map(has_class, parts))
    return annotation not in (str, int, float, bool, list, dict, tuple, set, type(None), Any, ...)


def _members(annotation: object) -> tuple[object, ...]:
    """Return the members of a union, or the annotation itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def leaves(annotation: object) -> list[object]:
    """Return all types and `Literal` values in an annotation."""
    parts = get_args(annotation)
    return [leaf for part in parts for leaf in leaves(part)] if parts else [annotation]


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
