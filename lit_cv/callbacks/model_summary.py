"""What a model is made of, in a table."""

import logging
import re
from typing import Any

from lightning.pytorch.callbacks import ModelSummary

__all__ = ["RunModelSummary"]


class RunModelSummary(ModelSummary):
    """Lightning's ModelSummary without operations that were not counted.

    They are counted where a module has an `example_input_array` to run; 0 would stand for the others.

    Args:
        max_depth: Levels of modules within modules that are listed.
    """

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__(max_depth)
        logger = logging.getLogger(ModelSummary.__module__)
        if not any(isinstance(existing, _NoZero) for existing in logger.filters):
            logger.addFilter(_NoZero())

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **kwargs: Any) -> None:
        """Log the table."""
        counted = kwargs.get("total_flops", 0) > 0
        ModelSummary.summarize([c for c in summary_data if counted or c[0] != "FLOPs"], *args, **kwargs)


class _NoZero(logging.Filter):
    """Drops the line that says 0."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = re.sub(r"\n0 +Total F\w+$", "", str(record.msg))
        return True
