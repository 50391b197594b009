"""Values that were read from a file: plain, finite, and of a size that fits its text. Pure Python."""

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["load_yaml", "read_yaml", "require_plain"]

_MOST = 100_000  # values that a configuration unfolds to; the largest recipe has some hundred
_DEEPEST = 50
_MOST_TEXT = 1 << 20  # bytes


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path, texts: bool = False) -> Any:
    """Read a YAML file by a safe loader.

    Args:
        path: The file.
        texts: Whether all values are taken as the text that stands there: `no`, `007` and `1e3` may be names.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no YAML in UTF-8, is too long, or unfolds to too much; the message names it.
    """
    with open(path, "rb") as file:
        content = file.read(_MOST_TEXT + 1)
    if len(content) > _MOST_TEXT:
        raise ValueError(f"{path} has more than {_MOST_TEXT:,} bytes: that is no configuration.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from None
    return load_yaml(text, str(path), texts)


def load_yaml(text: str, what: str, texts: bool = False) -> Any:
    """Return the value of a YAML text.

    Args:
        text: The text.
        what: What an error calls it.
        texts: Whether all values are taken as the text that stands there.

    Raises:
        ValueError: If it is no YAML, or its aliases unfold to too much or to themselves.

    Example:
        >>> load_yaml("lr: 1e-3", "an example")
        {'lr': 0.001}
    """
    try:
        content = yaml.load(text, yaml.BaseLoader if texts else _Loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # a date such as 2001-99-99 is a ValueError
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise ValueError(f"{what} is not valid YAML: it is nested too deeply.") from None
    require_plain(content, what, leaves=object)
    return content


def require_plain(value: Any, what: str, leaves: type | tuple[type, ...] = ()) -> None:
    """Refuse a value that holds more than numbers, texts, lists and dicts, or unfolds to too much.

    A few lists that hold each other unfold to more than any memory holds as soon as they are copied or written.

    Args:
        value: What was read of a file.
        what: What an error calls it.
        leaves: Other types that are allowed, of values without parts: YAML has dates, for one.

    Raises:
        ValueError: If it does.
    """
    sizes: dict[int, int] = {}
    open_now: set[int] = set()

    def size(part: Any, depth: int) -> int:
        if part is None or isinstance(part, str | int | float | bool):
            return 1
        if not isinstance(part, list | tuple | dict | set):
            if isinstance(part, leaves):
                return 1
            raise ValueError(f"{what} holds a {type(part).__name__}, but numbers, texts, lists and dicts are allowed.")
        key = id(part)
        if key in open_now:
            raise ValueError(f"{what} holds a list or dict that holds itself.")
        if key in sizes:
            return sizes[key]
        if depth > _DEEPEST:
            raise ValueError(f"{what} is nested more than {_DEEPEST} deep.")
        open_now.add(key)
        inner = [*part.keys(), *part.values()] if isinstance(part, dict) else list(part)
        total = 1
        for value in inner:
            total += size(value, depth + 1)
            if total > _MOST:
                raise ValueError(f"{what} unfolds to more than {_MOST:,} values: its aliases repeat one another.")
        open_now.discard(key)
        sizes[key] = total
        return total

    size(value, 0)
