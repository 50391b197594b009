"""What the values of masks stand for."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["MaskCode"]


@dataclass(frozen=True)
class MaskCode:
    """Which class each stored value, or each color, of mask files stands for.

    Args:
        names: Names of the classes.
        classes: The class of each value, 255 where it is ignored; other values stand for nothing.
        colors: Whether the values are colors, 0xRRGGBB.

    Example:
        >>> MaskCode(["ground", "cell"], {0: 0, 128: 1}).apply(np.array([[0, 128, 255]])).tolist()
        [[0, 1, 255]]
    """

    names: list[str] = field(default_factory=list)
    classes: dict[int, int] = field(default_factory=dict)
    colors: bool = False

    def apply(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the classes of stored values, 255 where they stand for nothing."""
        valid = np.array(sorted(self.classes), dtype=np.int64)
        numbers = np.array([self.classes[value] for value in valid.tolist()] + [IGNORE_INDEX], dtype=np.uint8)
        asked = np.arange(256) if values.dtype == np.uint8 else values
        places = np.searchsorted(valid, asked)
        found = numbers[np.where(np.append(valid, -1)[places] == asked, places, len(valid))]
        return np.asarray(found[values] if asked is not values else found)
