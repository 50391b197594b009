"""Further options of `predict`: images in any folder, and test-time augmentation."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_cv.running.runs import Checkpoint, find_checkpoint

__all__ = ["predict_arguments", "starts_from_weights"]

_KEPT = ("batch_size", "num_workers", "on_error", "value_range")  # data options that also apply to plain images
_OF_ANNOTATED = "min_box_side"  # an argument that only AnnotatedImagesDataModule has, which does not crop
_SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_VIEWS = ("flip", "shift", "crop")
_HELP = """options of predict, in addition to those below:
  --images FOLDER     a folder of images (subfolders included) or one image, instead of the images of the data
  --tta VIEWS         test-time augmentation: average over flip, shift, crop, or several separated by commas
  --dry_run           print what would be predicted, then exit
examples:
  lit-cv predict --ckpt_path best --images new_photos --tta flip,crop
  lit-cv predict --model DetectionModule --model.weights COCO --images new_photos --data.canvas [800,1333]
"""


def predict_arguments(args: list[str]) -> list[str] | None:
    """Turn `--images` and `--tta` into options of the DataModule and the Trainer.

    Args:
        args: `predict` and its options, as typed.

    Returns:
        The equivalent options, or `None` for a dry run, which this function prints.

    Raises:
        FileNotFoundError: If the checkpoint or the folder does not exist.
        ValueError: If `--images` comes without a checkpoint or weights, or the checkpoint does not hold the size of
            its images.
    """
    if {"-h", "--help"} & set(args):
        print(_HELP)
        return args
    images, args = _pop_option(args, "--images")
    views, args = _pop_option(args, "--tta")
    dry_run = "--dry_run" in args
    args = [token for token in args if token != "--dry_run"]
    if views is not None:
        names = [view for view in views.replace("+", ",").split(",") if view]
        if unknown := [view for view in names if view not in _VIEWS] or ([] if names else [views]):
            raise ValueError(f"--tta {unknown[0]}: give {', '.join(_VIEWS)}, or several separated by commas.")
        args += ["--trainer.callbacks+=TestTimeAugmentation", f"--trainer.callbacks.views={json.dumps(names)}"]
    if images is not None:
        if any(token.startswith("--data.predict_root") for token in args):
            raise ValueError("--images and --data.predict_root were both given: leave one of them out.")
        args = _on_files(args, images)
    if dry_run:
        _describe(args, images, views)
        return None
    return args


def starts_from_weights(args: list[str]) -> bool:
    """Return whether the options name weights to start from (`--model.weights`)."""
    return any(token.partition("=")[0] == "--model.weights" for token in args)


def _on_files(args: list[str], images: str) -> list[str]:
    name, _ = _pop_option(args, "--ckpt_path")
    if name is None and not starts_from_weights(args):
        raise ValueError("--images needs a trained model: name its checkpoint (--ckpt_path best).")
    if not Path(images).expanduser().exists():
        raise FileNotFoundError(f"{images!r} does not exist (--images).")
    if name is None:  # weights of a complete detector, which takes uncropped images
        return [args[0], "--data=ImageFilesDataModule", f"--data.root={images}", "--data.whole=true", *args[1:]]
    root, _ = _pop_option(args, "--trainer.default_root_dir")
    checkpoint = find_checkpoint(name, root)
    data = _data_options(checkpoint)
    kept, other, tokens = [], [], iter(args)
    for token in tokens:
        option, equals, value = token.partition("=")
        if option != "--data" and not option.startswith("--data."):
            other.append(token)
            continue
        value = value if equals else next(tokens, "")
        if option.removeprefix("--data.") in _KEPT:
            kept.append(f"{option}={value}")
    data["root"] = images
    options = [f"--data.{key}={_to_yaml(value)}" for key, value in data.items() if value is not None]
    return [*other, "--data=ImageFilesDataModule", *options, *kept]


def _data_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the data options that read images as in the training of a checkpoint.

    Raises:
        ValueError: If images are cropped to squares, but the model takes other shapes.
    """
    size, channels = (checkpoint.hyperparameters.get(key) for key in ("image_size", "in_channels"))
    sides = [size] * 2 if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    classes = {**checkpoint.hyperparameters, **checkpoint.classes}
    data: dict[str, Any] = {name: classes.get(name) for name in ("class_names", "box_classes", "mask_classes")}
    data |= {"channels": channels, "value_range": _trained_range(checkpoint.data_parameters)}
    data["class_names"] = checkpoint.class_names or None
    if data["box_classes"] or data["mask_classes"] or _OF_ANNOTATED in checkpoint.data_parameters:
        return {**data, "whole": True, "canvas": sides or None}
    if len(set(sides)) != 1:
        raise ValueError(f"{checkpoint.path} takes images of {size}: --images needs a model for square images.")
    return {**data, "image_size": sides[0]}


def _trained_range(data: Mapping[str, Any]) -> list[float] | None:
    """Return the value range that scaled the training images; with two domains, the target's."""
    target = data.get("target")
    inner = target.get("init_args") if isinstance(target, Mapping) else None
    value_range = (inner if isinstance(inner, Mapping) else data).get("value_range")
    if isinstance(value_range, list | tuple) and all(isinstance(value, int | float) for value in value_range):
        return list(value_range)
    return None


def _to_yaml(value: object) -> str:
    """Return a value as YAML for an option: JSON, with its surrogate pairs as single characters."""
    if isinstance(value, str):
        return value
    return _SURROGATES.sub(_join_surrogates, json.dumps(value))


def _join_surrogates(pair: re.Match[str]) -> str:
    character = json.loads(f'"{pair[0]}"')
    return f"\\U{ord(character):08x}"


def _describe(args: list[str], images: str | None, views: str | None) -> None:
    from datamodules.folder import find_images

    name, _ = _pop_option(args, "--ckpt_path")
    root, _ = _pop_option(args, "--trainer.default_root_dir")
    if name is not None:
        weights = str(find_checkpoint(name, root).path)
    else:
        weights = "the weights of --model.weights" if starts_from_weights(args) else "untrained weights (no checkpoint)"
    subject = "the images of the data"
    if images is not None:
        subject = images if Path(images).is_file() else f"{len(find_images(Path(images)))} images in {images}"
    print(f"predict {subject} with {weights}" + (f", averaged over views ({views})" if views else ""))


def _pop_option(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """Return the value of an option, and the other arguments."""
    value, other, tokens = None, [], iter(args)
    for token in tokens:
        option, equals, text = token.partition("=")
        if option != name:
            other.append(token)
        elif equals:
            value = text
        else:
            value = next(tokens, None)
            if value is None:
                raise ValueError(f"{name} needs a value.")
    return value, other
