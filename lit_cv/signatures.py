"""What classes and functions of the user's own take, looked at before they are called. Pure Python."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from lit_cv.suggest import nearest

__all__ = ["accepted_arguments", "build", "parameters"]

T = TypeVar("T")

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or constructor by name, with those of its bases that `**kwargs` leads to.

    Example:
        >>> class Base:
        ...     def __init__(self, size=1): ...
        >>> class Own(Base):
        ...     def __init__(self, depth, **kwargs): ...
        >>> list(parameters(Own))
        ['depth', 'size']
    """
    found: dict[str, inspect.Parameter] = {}
    for signature in _signatures(kind):
        for parameter in signature.parameters.values():
            if parameter.kind in _NAMED:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
            break
    return found


def accepted_arguments(kind: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some arguments that a function or constructor has a parameter for."""
    known = parameters(kind)
    return {name: value for name, value in offered.items() if name in known}


def build(
    kind: Callable[..., T],
    name: str,
    given: Mapping[str, Any] | None = None,
    offered: Mapping[str, Any] | None = None,
    positional: tuple[Any, ...] = (),
) -> T:
    """Call a function or constructor whose arguments partly stand in a configuration.

    Args:
        kind: What to call.
        name: What messages call it.
        given: Arguments of the configuration, all of which it must take.
        offered: Further arguments, of which it gets those that it takes.
        positional: Arguments that come first, whatever their names.

    Raises:
        ValueError: If it takes no such argument, or needs one that nobody gave; otherwise what it raises itself, with
            the name before it.

    Example:
        >>> from fractions import Fraction
        >>> build(Fraction, "an example", {"numerator": 3}, offered={"denominator": 2, "color": "red"})
        Fraction(3, 2)
    """
    given, known = given or {}, parameters(kind)
    for argument in given:
        if argument not in known:
            takes = f" It takes {', '.join(known)}." if known else " It takes none."
            raise ValueError(f"{name} has no argument {argument!r}{nearest(str(argument), known)}{takes}")
    arguments = {**accepted_arguments(kind, offered or {}), **given}
    if missing := _missing(kind, arguments, len(positional)):
        raise ValueError(f"{name} needs {' and '.join(missing)}, which nothing gives: it must have a default.")
    try:
        return kind(*positional, **arguments)
    except (TypeError, ValueError) as error:
        kind_of_error = TypeError if isinstance(error, TypeError) else ValueError
        raise kind_of_error(f"{name}: {error}") from error


def _missing(kind: Callable[..., Any], arguments: Mapping[str, Any], positional: int) -> list[str]:
    """Return the parameters without a default that no argument is for."""
    first = next(_signatures(kind)).parameters.values()
    needed = [each for each in first if each.default is each.empty and each.kind in _NAMED]
    return [f"`{each.name}`" for each in needed[positional:] if each.name not in arguments]


def _signatures(kind: Callable[..., Any]) -> Iterator[inspect.Signature]:
    """Yield the signature of a function, or those of the constructors of a class and of its bases in their order."""
    yield inspect.signature(kind)
    bases = kind.__mro__[1:] if isinstance(kind, type) else ()
    for base in bases:
        if base is not object and "__init__" in vars(base):
            yield inspect.signature(base)
