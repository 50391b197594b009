"""A record of the preprocessing that a network was trained with, kept with its weights. Pure Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from lit_cv.printable import printable

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "channel_values", "shared_values"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "box", "hamming", "random")
_MAX_CHANNELS = 1 << 16
_MAX_SIDE = 1 << 16  # pixels
_MAX_VALUE = 1e6
_MAX_QUOTED = 60  # characters of a value of a file
_MAX_SOURCE = 300
_MAX_LISTED = 9


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of the images that weights were trained on. Unknown values are `None`.

    Attributes:
        mean: Mean of each channel in [0, 1] units, which is subtracted.
        std: Standard deviation of each channel in [0, 1] units, by which the images are divided.
        interpolation: Interpolation of the resizing: `bilinear`, `bicubic`, ...
        crop: Side of the center crop as a fraction of the side of the resized image.
        size: Height and width of the images in pixels.
        source: Source of the mean and standard deviation.

    Example:
        >>> file = Preprocessing(size=(384, 384))
        >>> print(file.completed_by(Preprocessing((0.5,), (0.5,), "bicubic", 1.0, (224, 224), "timm's vit")))
        mean 0.5 and std 0.5 (timm's vit), trained on 384 x 384 pixels, bicubic, crop 1
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop: float | None = None
    size: tuple[int, int] | None = None
    source: str = ""

    def completed_by(self, other: "Preprocessing | None") -> "Preprocessing":
        """Return this record with missing values filled in from another; mean and std are only filled in together."""
        if other is None:
            return self
        statistics: dict[str, Any] = (
            {} if self.mean or self.std else {"mean": other.mean, "std": other.std, "source": other.source}
        )
        return replace(
            self,
            interpolation=self.interpolation or other.interpolation,
            crop=self.crop or other.crop,
            size=self.size or other.size,
            **statistics,
        )

    def plain(self) -> dict[str, Any]:
        """Return the known values as lists, strings and numbers, for files."""
        tuples = {"mean": self.mean, "std": self.std, "size": self.size}
        lists = {name: list(value) for name, value in tuples.items() if value}
        scalars = {"interpolation": self.interpolation, "crop": self.crop, "source": self.source}
        return lists | {name: value for name, value in scalars.items() if value}

    @classmethod
    def from_plain(cls, values: object, source: str | None = None) -> Self:
        """Validate values from a file and return them as a record.

        Args:
            values: A dict with some of `mean`, `std`, `interpolation`, `crop`, `size` (one number or height and width).
            source: Source of the record; `None` uses the `source` among the values.

        Raises:
            ValueError: If a value is invalid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"its preprocessing is {_quoted(values)}: a dict is allowed.")
        mean, std = (channel_values(key, values.get(key)) for key in ("mean", "std"))
        if (mean is None) != (std is None) or (mean and std and len(mean) != len(std)):
            raise ValueError("its mean and std have different numbers of channels.")
        name = str(values.get("source", ""))[:_MAX_SOURCE] if source is None else source
        return cls(mean, std, _interpolation(values), _crop(values), _size(values), printable(name, lines=False))

    def __str__(self) -> str:
        """Describe the record in one line."""
        mean, std = (_listed(values) for values in (self.mean or (), self.std or ()))
        facts = [
            self.size and f"trained on {self.size[0]} x {self.size[1]} pixels",
            self.interpolation,
            self.crop and f"crop {self.crop:g}",
        ]
        return ", ".join([f"mean {mean} and std {std} ({self.source})", *(fact for fact in facts if fact)])


def shared_values(records: Sequence[Preprocessing], source: str) -> Preprocessing:
    """Return the first record with interpolation, crop and size unset where the records differ.

    Example:
        >>> shared_values([Preprocessing(size=(224, 224), crop=0.9), Preprocessing(size=(224, 224), crop=1.0)], "both")
        Preprocessing(mean=None, std=None, interpolation=None, crop=None, size=(224, 224), source='both')
    """
    first = records[0]
    names = ("interpolation", "crop", "size")
    differing = [name for name in names if any(getattr(each, name) != getattr(first, name) for each in records)]
    return replace(first, source=source, **dict.fromkeys(differing))


def channel_values(name: str, values: object) -> tuple[float, ...] | None:
    """Validate a mean or standard deviation from a file; return `None` for `None`.

    Args:
        name: `mean` or `std`; a `std` must be positive.
        values: The value from the file.

    Raises:
        ValueError: If it is not a list with one number per channel.
    """
    if values is None:
        return None
    if not isinstance(values, list | tuple) or not all(_is_number(value) for value in values):
        raise ValueError(f"its {name} is {_quoted(values)}: a list with one number per channel is allowed.")
    if not 0 < len(values) <= _MAX_CHANNELS:
        raise ValueError(f"its {name} has {len(values)} values: one number per channel is allowed.")
    if not all(abs(value) <= _MAX_VALUE for value in values) or (name == "std" and min(values) <= 0):
        raise ValueError(f"its {name} is not finite{' and positive' if name == 'std' else ''} for every channel.")
    return tuple(float(value) for value in values)


def _interpolation(values: Mapping[Any, Any]) -> str | None:
    name = values.get("interpolation")
    if name is None or (isinstance(name, str) and name in _INTERPOLATIONS):
        return name
    raise ValueError(f"its interpolation is {_quoted(name)}: {', '.join(_INTERPOLATIONS)} are allowed.")


def _crop(values: Mapping[Any, Any]) -> float | None:
    crop = values.get("crop")
    if crop is None:
        return None
    if not _is_number(crop) or not 0 < crop <= 2:
        raise ValueError(f"its crop is {_quoted(crop)}: a fraction of the side is allowed.")
    return float(crop)


def _size(values: Mapping[Any, Any]) -> tuple[int, int] | None:
    size = values.get("size")
    if size is None:
        return None
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
        raise ValueError(f"its size is {_quoted(size)}: height and width in pixels are allowed.")
    return sides[0], sides[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(value: object) -> str:
    """Return a short form of a value from a file, without numbers too long for Python to print."""
    if isinstance(value, str):
        return repr(value[:_MAX_QUOTED])
    if isinstance(value, int | float) and abs(value) < _MAX_SIDE**2:
        return repr(value)
    if isinstance(value, int | float):
        return "a number out of range"
    if isinstance(value, list | tuple) and len(value) < _MAX_LISTED and not any(map(_is_nested, value)):
        return f"[{', '.join(map(_quoted, value))}]"
    return f"a {type(value).__name__}"


def _is_nested(value: object) -> bool:
    return isinstance(value, list | tuple | Mapping)


def _listed(values: Sequence[float]) -> str:
    """Format the values of the channels; a single number if all are equal.

    Example:
        >>> _listed((0.5, 0.5, 0.5)), _listed((0.485, 0.456, 0.406))
        ('0.5', '[0.485, 0.456, 0.406]')
    """
    short = [f"{value:.4g}" for value in values]
    return short[0] if short and len(set(short)) == 1 else f"[{', '.join(short)}]"
