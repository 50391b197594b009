"""What files tell about preprocessing: metadata of a file of weights, and the JSON that libraries put beside it."""

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
"""Key of the record, as JSON, in the metadata of safetensors; and as a dict in the field `lit_cv` of checkpoints."""

_MOST_TEXT = 1 << 20  # bytes of a file of JSON
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers, in their order


def preprocessing_inside(file: WeightFile, content: Any) -> Preprocessing | None:
    """Return the record that a file of weights of this project holds beside its tensors.

    Args:
        file: The file.
        content: What `file.read()` gave.

    Raises:
        ValueError: If it is damaged.
    """
    if file.path.suffix == ".safetensors":
        with safe_open(file.path, "pt") as opened:
            text = (opened.metadata() or {}).get(METADATA_KEY)
        values = None if text is None else _parse(text, str(file.path))
    else:
        own = content.get("lit_cv") if isinstance(content, Mapping) else None
        values = own.get(METADATA_KEY) if isinstance(own, Mapping) else None
    return None if values is None else Preprocessing.from_plain(values, str(file))


def preprocessing_beside(path: Path) -> Preprocessing | None:
    """Return what the JSON beside a file of weights says.

    timm puts `pretrained_cfg` into `config.json`, transformers writes `preprocessor_config.json`.

    Raises:
        ValueError: If it is damaged; the message names it.
    """
    for name, read in (("config.json", _from_timm), ("preprocessor_config.json", _from_transformers)):
        content = _read_beside(path, name)
        try:
            found = None if content is None else read(content, str(path.parent / name))
        except ValueError as error:
            raise ValueError(f"{path.parent / name}: {error}") from None
        if found is not None:
            return found
    return None


def require_activation(file: WeightFile, name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights of a CLIP whose activation, as the JSON beside them says, is not that of the network.

    Args:
        file: The file of the weights.
        name: Name of the network.
        state: The weights under timm's names.

    Raises:
        ValueError: If it is quick GELU, which timm's networks of OpenAI's CLIP have in their names, or the other way.
    """
    content = _read_beside(file.path, "config.json")
    if content is None or "norm_pre.weight" not in state:
        return
    vision = content.get("vision_config", content)
    quick = not isinstance(vision, Mapping) or vision.get("hidden_act", "quick_gelu") == "quick_gelu"
    if quick != ("quickgelu" in name):
        raise ValueError(
            f"{file} holds a CLIP {'with' if quick else 'without'} quick GELU, and {name} is one "
            f"{'without' if quick else 'with'} it: such networks have quickgelu in their names, as in "
            f"timm/vit_base_patch32_clip_quickgelu_224; change {argument('backbone')}."
        )


def _read_beside(path: Path, name: str) -> Mapping[str, Any] | None:
    """Return what a file of JSON in the folder of another one holds, `None` if there is none.

    Raises:
        ValueError: If it is no JSON of an object, or huge; the message names it.
    """
    beside = path.parent / name
    if not beside.is_file():
        return None
    with open(beside, "rb") as opened:
        text = opened.read(_MOST_TEXT + 1)
    if len(text) > _MOST_TEXT:
        raise ValueError(f"{beside} has more than {_MOST_TEXT:,} bytes: that is no configuration of a network.")
    content = _parse(text, str(beside))
    if not isinstance(content, Mapping):
        raise ValueError(f"{beside} holds a {type(content).__name__}, where an object is allowed.")
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
        raise ValueError(f"its pretrained_cfg is a {type(config).__name__}, where an object is allowed.")
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
    whole = _side(content.get("size"))
    size = _side(content.get("crop_size")) if content.get("do_center_crop", False) else whole
    size = size or whole
    record = Preprocessing.from_plain(
        {"mean": mean, "std": std, "interpolation": interpolation, "crop": content.get("crop_pct"), "size": size},
        source,
    )
    return _rescaled(record, content)


def _side(value: Any) -> Any:
    """Return the height and width that transformers' configurations give in several forms."""
    if not isinstance(value, Mapping):
        return value
    if "height" in value and "width" in value:
        return [value["height"], value["width"]]
    return value.get("shortest_edge")


def _rescaled(record: Preprocessing, content: Mapping[str, Any]) -> Preprocessing:
    """Return the record in [0, 1] units where its images were scaled otherwise before they were normalized."""
    factor = content.get("rescale_factor", 1 / 255)
    if content.get("do_rescale") is False:
        factor = 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ValueError("its rescale_factor is no positive number up to 1.")
    scale = 255 * factor
    if abs(scale - 1) < 1e-3 or not record.mean or not record.std:
        return record
    shares = {"mean": [value / scale for value in record.mean], "std": [value / scale for value in record.std]}
    return Preprocessing.from_plain(record.plain() | shares, record.source)
