"""Types of arguments that name an optimizer or a schedule, so that the command line lists the built-in ones."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from lit_cv.optim.optimizers import OPTIMIZERS
from lit_cv.optim.schedules import SCHEDULES

__all__ = ["OptimizerName", "ScheduleName"]

if TYPE_CHECKING:
    OptimizerName: TypeAlias = str
    ScheduleName: TypeAlias = str
else:
    OptimizerName = Literal[(*OPTIMIZERS,)] | str
    ScheduleName = Literal[(*SCHEDULES,)] | str
