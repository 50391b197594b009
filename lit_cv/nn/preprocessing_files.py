"""Preprocessing recorded in files: metadata of a weights file, and the JSON file that libraries store next to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from lit_cv.errors import argument
from lit_cv.nn.preprocessing import Preprocessing
from lit_cv.nn.weight_files import WeightFile

__all__ = ["METADATA_KEY", "preprocessing_beside", "preprocessing_inside", "require_activation"]

METADATA_KEY = "preprocessing"
"""Key of the record: as JSON in the metadata of safetensors files, as a dict in the field `lit_cv` of checkpoints."""

_MAX_TEXT = 1 << 20  # bytes of a JSON file
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers, in their order


def preprocessing_inside(file: WeightFile, content: Any) -> Preprocessing | None:
    """Return the record that lit_cv stored in a weights file, `None` if there is none.

    Args:
        file: The file.
        content: The result of `file.read()`.

    Raises:
        ValueError: If the record is damaged.
    """
    if file.path.suffix == ".safetensors":
        with safe_open(file.path, "pt") as opened:
            text = (opened.metadata() or {}).get(METADATA_KEY)
        values = None if text is None else _parse(text, str(file.path))
    else:
        extra = content.get("lit_cv") if isinstance(content, Mapping) else None
        values = extra.get(METADATA_KEY) if isinstance(extra, Mapping) else None
    return None if values is None else Preprocessing.from_plain(values, str(file))


def preprocessing_beside(path: Path) -> Preprocessing | None:
    """Return the record in the JSON file next to a weights file, `None` if there is none.

    timm stores `pretrained_cfg` in `config.json`; transformers writes `preprocessor_config.json`.

    Raises:
        ValueError: If the JSON file is damaged; the message names it.
    """
    for name, read in (("config.json", _from_timm), ("preprocessor_config.json", _from_transformers)):
        content = _read_beside(path, name)
        try:
            record = None if content is None else read(content, str(path.parent / name))
        except ValueError as error:
            raise ValueError(f"{path.parent / name}: {error}") from None
        if record is not None:
            return record
    return None


def require_activation(file: WeightFile, name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse CLIP weights if the activation in the JSON file next to them differs from the network's.

    Args:
        file: The weights file.
        name: Name of the network; `quickgelu` in it marks timm's networks with quick GELU, OpenAI's CLIP.
        state: The weights under timm's names.

    Raises:
        ValueError: If only one of weights and network uses quick GELU.
    """
    content = _read_beside(file.path, "config.json")
    if content is None or "norm_pre.weight" not in state:
        return
    vision = content.get("vision_config", content)
    quick = not isinstance(vision, Mapping) or vision.get("hidden_act", "quick_gelu") == "quick_gelu"
    if quick != ("quickgelu" in name):
        raise ValueError(
            f"{file} holds a CLIP {'with' if quick else 'without'} quick GELU, but {name} is a network "
            f"{'without' if quick else 'with'} it: networks with quick GELU have quickgelu in their names, such as "
            f"timm/vit_base_patch32_clip_quickgelu_224; change {argument('backbone')}."
        )


def _read_beside(path: Path, name: str) -> Mapping[str, Any] | None:
    """Return the content of a JSON file in the folder of another file, `None` if there is none.

    Raises:
        ValueError: If it is too large or does not hold a JSON object; the message names it.
    """
    beside = path.parent / name
    if not beside.is_file():
        return None
    with open(beside, "rb") as opened:
        text = opened.read(_MAX_TEXT + 1)
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{beside} has more than {_MAX_TEXT:,} bytes: it is not the configuration of a network.")
    content = _parse(text, str(beside))
    if not isinstance(content, Mapping):
        raise ValueError(f"{beside} holds a {type(content).__name__}: a JSON object is allowed.")
    return content


def _parse(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: its JSON is damaged.") from None


def _from_timm(content: Mapping[str, Any], source: str) -> Preprocessing | None:
    config = content.get("pretrained_cfg")
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise ValueError(f"its pretrained_cfg is a {type(config).__name__}: a JSON object is allowed.")
    shape = config.get("input_size")
    values = {"mean": config.get("mean"), "std": config.get("std"), "interpolation": config.get("interpolation")}
    size = shape[1:] if isinstance(shape, list) and len(shape) == 3 else shape
    return Preprocessing.from_plain(values | {"crop": config.get("crop_pct"), "size": size}, source)


def _from_transformers(content: Mapping[str, Any], source: str) -> Preprocessing | None:
    mean, std = content.get("image_mean"), content.get("image_std")
    if content.get("do_normalize") is False:
        mean, std = [0.0], [1.0]
    if mean is None and std is None:
        return None
    number = content.get("resample")
    interpolation = _RESAMPLING[number] if type(number) is int and 0 <= number < len(_RESAMPLING) else None
    resized = _side(content.get("size"))
    size = _side(content.get("crop_size")) if content.get("do_center_crop", False) else resized
    size = size or resized
    record = Preprocessing.from_plain(
        {"mean": mean, "std": std, "interpolation": interpolation, "crop": content.get("crop_pct"), "size": size},
        source,
    )
    return _rescaled(record, content)


def _side(value: Any) -> Any:
    """Return a size from transformers' configurations, which store it in several forms."""
    if not isinstance(value, Mapping):
        return value
    if "height" in value and "width" in value:
        return [value["height"], value["width"]]
    return value.get("shortest_edge")


def _rescaled(record: Preprocessing, content: Mapping[str, Any]) -> Preprocessing:
    """Convert a record to [0, 1] units if the images were scaled to another range before normalization."""
    factor = content.get("rescale_factor", 1 / 255)
    if content.get("do_rescale") is False:
        factor = 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ValueError("its rescale_factor is not a positive number of at most 1.")
    scale = 255 * factor
    if abs(scale - 1) < 1e-3 or not record.mean or not record.std:
        return record
    scaled = {"mean": [value / scale for value in record.mean], "std": [value / scale for value in record.std]}
    return Preprocessing.from_plain(record.plain() | scaled, record.source)
