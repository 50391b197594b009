"""Inspecting the parameters of custom classes and functions before calling them. Pure Python."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from lit_cv.suggest import nearest

__all__ = ["accepted_arguments", "build", "parameters"]

T = TypeVar("T")

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or constructor by name, with those of its bases if it takes `**kwargs`.

    Example:
        >>> class Base:
        ...     def __init__(self, size=1): ...
        >>> class Custom(Base):
        ...     def __init__(self, depth, **kwargs): ...
        >>> list(parameters(Custom))
        ['depth', 'size']
    """
    by_name: dict[str, inspect.Parameter] = {}
    for signature in _signatures(kind):
        for parameter in signature.parameters.values():
            if parameter.kind in _NAMED:
                by_name.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
            break
    return by_name


def accepted_arguments(kind: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return the offered arguments that a function or constructor has a parameter for."""
    names = parameters(kind)
    return {name: value for name, value in offered.items() if name in names}


def build(
    kind: Callable[..., T],
    name: str,
    given: Mapping[str, Any] | None = None,
    offered: Mapping[str, Any] | None = None,
    positional: tuple[Any, ...] = (),
) -> T:
    """Call a function or constructor with arguments of a configuration and others that it may accept.

    Args:
        kind: The function or class.
        name: Its name in messages.
        given: Arguments of the configuration; each must be accepted.
        offered: Further arguments; those without a parameter are left out.
        positional: Arguments that come first, by position.

    Raises:
        ValueError: If an argument of the configuration is not accepted, or a required one is missing. Its own
            TypeErrors and ValueErrors are raised with the name before the message.

    Example:
        >>> from fractions import Fraction
        >>> build(Fraction, "an example", {"numerator": 3}, offered={"denominator": 2, "color": "red"})
        Fraction(3, 2)
    """
    given, names = given or {}, parameters(kind)
    for argument in given:
        if argument not in names:
            choices = f" It accepts {', '.join(names)}." if names else " It accepts none."
            raise ValueError(f"{name} has no argument {argument!r}{nearest(str(argument), names)}{choices}")
    arguments = {**accepted_arguments(kind, offered or {}), **given}
    if missing := _missing(kind, arguments, len(positional)):
        raise ValueError(f"{name} requires {' and '.join(missing)}, but no value is available: add a default.")
    try:
        return kind(*positional, **arguments)
    except (TypeError, ValueError) as error:
        kind_of_error = TypeError if isinstance(error, TypeError) else ValueError
        raise kind_of_error(f"{name}: {error}") from error


def _missing(kind: Callable[..., Any], arguments: Mapping[str, Any], positional: int) -> list[str]:
    """Return the parameters without a default that have no argument."""
    first = next(_signatures(kind)).parameters.values()
    needed = [each for each in first if each.default is each.empty and each.kind in _NAMED]
    return [f"`{each.name}`" for each in needed[positional:] if each.name not in arguments]


def _signatures(kind: Callable[..., Any]) -> Iterator[inspect.Signature]:
    """Yield the signature of a function, or of the constructors of a class and its bases in method resolution order."""
    yield inspect.signature(kind)
    bases = kind.__mro__[1:] if isinstance(kind, type) else ()
    for base in bases:
        if base is not object and "__init__" in vars(base):
            yield inspect.signature(base)
