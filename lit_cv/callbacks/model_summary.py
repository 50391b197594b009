"""Summary table of a model."""

import logging
import re
from typing import Any

from lightning.pytorch.callbacks import ModelSummary

__all__ = ["RunModelSummary"]


class RunModelSummary(ModelSummary):
    """Lightning's ModelSummary, without FLOPs that were not counted.

    Lightning counts FLOPs only for modules with an `example_input_array`, and would list 0 for others.

    Args:
        max_depth: Maximum nesting depth of the listed modules.
    """

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__(max_depth)
        logger = logging.getLogger(ModelSummary.__module__)
        if not any(isinstance(existing, _NoZero) for existing in logger.filters):
            logger.addFilter(_NoZero())

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **kwargs: Any) -> None:
        """Log the table, with FLOPs only if they were counted."""
        counted = kwargs.get("total_flops", 0) > 0
        ModelSummary.summarize([c for c in summary_data if counted or c[0] != "FLOPs"], *args, **kwargs)


class _NoZero(logging.Filter):
    """Removes the line with 0 FLOPs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = re.sub(r"\n0 +Total F\w+$", "", str(record.msg))
        return True
