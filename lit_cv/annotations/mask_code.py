"""The mapping from mask values to classes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["MaskCode"]


@dataclass(frozen=True)
class MaskCode:
    """Mapping from the stored values or colors of mask files to classes.

    Args:
        names: Names of the classes.
        classes: Class of each value, 255 if it is ignored; other values have no class.
        colors: Whether the values are colors 0xRRGGBB.

    Example:
        >>> MaskCode(["ground", "cell"], {0: 0, 128: 1}).apply(np.array([[0, 128, 255]])).tolist()
        [[0, 1, 255]]
    """

    names: list[str] = field(default_factory=list)
    classes: dict[int, int] = field(default_factory=dict)
    colors: bool = False

    def apply(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the classes of stored values, 255 for values without a class."""
        valid = np.array(sorted(self.classes), dtype=np.int64)
        numbers = np.array([self.classes[value] for value in valid.tolist()] + [IGNORE_INDEX], dtype=np.uint8)
        looked_up = np.arange(256) if values.dtype == np.uint8 else values
        places = np.searchsorted(valid, looked_up)
        classes = numbers[np.where(np.append(valid, -1)[places] == looked_up, places, len(valid))]
        return np.asarray(classes[values] if looked_up is not values else classes)
