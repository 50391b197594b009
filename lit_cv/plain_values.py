"""Reading plain values (numbers, text, lists, dicts) of limited size from YAML and checkpoints. Pure Python."""

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["load_yaml", "read_yaml", "require_plain"]

_MAX_VALUES = 100_000  # after aliases are expanded; the largest recipe has a few hundred
_MAX_DEPTH = 50
_MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path, texts: bool = False) -> Any:
    """Read a YAML file with a safe loader.

    Args:
        path: The file.
        texts: Whether to read all values as text: `no`, `007` and `1e3` may be names.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not valid YAML in UTF-8, or is too large; the message names the file.
    """
    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than the limit of {_MAX_BYTES:,} bytes for YAML files.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid UTF-8: {error}") from None
    return load_yaml(text, str(path), texts)


def load_yaml(text: str, what: str, texts: bool = False) -> Any:
    """Parse YAML text with a safe loader.

    Args:
        text: The text.
        what: What it is, for messages.
        texts: Whether to read all values as text.

    Raises:
        ValueError: If it is not valid YAML, or its aliases are recursive or expand to too many values.

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
    """Refuse a value that holds anything but numbers, text, lists and dicts, or expands to too many values.

    A few lists that refer to one another can exceed any memory as soon as they are copied or written.

    Args:
        value: A value read from a file.
        what: What it is, for messages.
        leaves: Other allowed types of values without parts, such as dates in YAML.

    Raises:
        ValueError: If the value is refused.
    """
    sizes: dict[int, int] = {}
    open_now: set[int] = set()

    def size(part: Any, depth: int) -> int:
        if part is None or isinstance(part, str | int | float | bool):
            return 1
        if not isinstance(part, list | tuple | dict | set):
            if isinstance(part, leaves):
                return 1
            raise ValueError(f"{what} holds a {type(part).__name__}; only numbers, text, lists and dicts are allowed.")
        key = id(part)
        if key in open_now:
            raise ValueError(f"{what} holds a list or dict that contains itself.")
        if key in sizes:
            return sizes[key]
        if depth > _MAX_DEPTH:
            raise ValueError(f"{what} is nested more than {_MAX_DEPTH} levels deep.")
        open_now.add(key)
        inner = [*part.keys(), *part.values()] if isinstance(part, dict) else list(part)
        total = 1
        for value in inner:
            total += size(value, depth + 1)
            if total > _MAX_VALUES:
                raise ValueError(f"{what} expands to more than {_MAX_VALUES:,} values: its aliases repeat one another.")
        open_now.discard(key)
        sizes[key] = total
        return total

    size(value, 0)
