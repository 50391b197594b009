"""Hyperparameters that depend on the data: channels, image size, classes."""

import logging
from collections.abc import MutableMapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lit_cv.contracts import as_data
from lit_cv.errors import MODULE, argument, setting
from lit_cv.nn import checkpoint_options, has_small_stem

__all__ = ["ChannelStatistics", "infer_from_data"]

log = logging.getLogger("lit_cv")

ChannelStatistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

_SMALL_IMAGE = 64  # pixels; up to this size standard stems, which downsample fourfold, lose too much


def infer_from_data(hparams: MutableMapping[str, Any], datamodule: object | None) -> ChannelStatistics | None:
    """Set hyperparameters that are `None` from the DataModule, and check the others against it.

    Args:
        hparams: Hyperparameters of a module, changed in place so that checkpoints contain the values.
        datamodule: The Trainer's DataModule after its setup, `None` if there is none.

    Returns:
        Mean and standard deviation of the data in [0, 1] units, `None` if the DataModule does not have them.

    Raises:
        ValueError: If the data contradict a hyperparameter.
    """
    data = as_data(datamodule)
    facts = {
        "num_classes": data.num_classes,
        "multi_label": data.multi_label,
        "in_channels": data.in_channels,
        "box_classes": data.box_classes,
        "mask_classes": data.mask_classes,
    }
    for name, value in facts.items():
        if name not in hparams or value in (None, [], ()):
            continue
        if hparams[name] is None:
            hparams[name] = value
        elif hparams[name] != value:
            raise ValueError(
                f"the model has {name}={hparams[name]}, from its checkpoint or as an argument, but "
                f"{type(datamodule).__name__} has {name}={value}: use the data that it was trained for, or "
                f"without a checkpoint leave {argument(name, MODULE)} out."
            )
    if hparams["in_channels"] is None:
        hparams["in_channels"] = 3
    size = data.image_size
    if hparams["image_size"] is None and size is not None:
        hparams["image_size"] = [int(side) for side in size]
    if hparams["stem"] == "auto":
        hparams["stem"] = _choose_stem(hparams["backbone"], hparams["weights"], hparams["image_size"])
    return None if data.mean is None or data.std is None else (data.mean, data.std)


def _choose_stem(backbone: str, weights: str | None, image_size: int | list[int] | None) -> str:
    if weights is not None:
        return str(checkpoint_options(weights).get("stem") or "standard")
    if image_size is None:
        return "standard"
    largest = image_size if isinstance(image_size, int) else max(image_size)
    if largest > _SMALL_IMAGE or not has_small_stem(backbone):
        return "standard"
    standard = setting("stem", "standard", MODULE)
    rank_zero_only(log.info)(
        f"{backbone}: small stem for images of {largest} pixels ({standard} keeps the published one)"
    )
    return "small"
