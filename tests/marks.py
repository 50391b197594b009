"""Which rows of a parametrized test the quick test command runs."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["first_quick"]


def first_quick(rows: Iterable[Any], quick: int = 1) -> list[Any]:
    """Return the rows of `parametrize` with all but the first ones marked `slow`.

    Args:
        rows: Values of one argument, or tuples of those of several.
        quick: Number of rows that are not marked.
    """
    return [row if number < quick else _slow(row) for number, row in enumerate(rows)]


def _slow(row: Any) -> Any:
    return pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow)
