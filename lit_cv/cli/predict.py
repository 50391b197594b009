"""What `predict` takes besides the options of every verb: images in any folder, and several views of each."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_cv.running.runs import Checkpoint, find_checkpoint

__all__ = ["predict_arguments", "starts_from_weights"]

_KEPT = ("batch_size", "num_workers", "on_error", "value_range")  # options of data that a folder of images has, too
_OF_ANNOTATED = "min_box_side"  # an argument of AnnotatedImagesDataModule alone, which does not crop
_PAIR = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_VIEWS = ("flip", "shift", "crop")
_HELP = """options of predict beside those of every verb:
  --images FOLDER     images in any arrangement, or one image, in place of those of the data
  --tta VIEWS         average over views: flip, shift, crop, or several with commas
  --dry_run           say what would be predicted, and do nothing
examples:
  lit-cv predict --ckpt_path best --images new_photos --tta flip,crop
  lit-cv predict --model DetectionModule --model.weights COCO --images new_photos --data.canvas [800,1333]
"""


def predict_arguments(args: list[str]) -> list[str] | None:
    """Turn `--images` and `--tta` into options of the DataModule and the Trainer.

    Args:
        args: `predict` and its options, as typed.

    Returns:
        The options that stand for them, or `None` for a dry run, which this function prints.

    Raises:
        FileNotFoundError: If there is no checkpoint or no folder.
        ValueError: If `--images` comes without a checkpoint or weights, or the checkpoint does not tell the size of its
            images.
    """
    if {"-h", "--help"} & set(args):
        print(_HELP)
        return args
    images, args = _take(args, "--images")
    views, args = _take(args, "--tta")
    dry = "--dry_run" in args
    args = [token for token in args if token != "--dry_run"]
    if views is not None:
        asked = [view for view in views.replace("+", ",").split(",") if view]
        if unknown := [view for view in asked if view not in _VIEWS] or ([] if asked else [views]):
            raise ValueError(f"--tta {unknown[0]}: give {', '.join(_VIEWS)}, or several with commas.")
        chosen = json.dumps(asked)
        args += ["--trainer.callbacks+=TestTimeAugmentation", f"--trainer.callbacks.views={chosen}"]
    if images is not None:
        if any(token.startswith("--data.predict_root") for token in args):
            raise ValueError("--images and --data.predict_root both say what is predicted: leave one of them out.")
        args = _on_files(args, images)
    if dry:
        _describe(args, images, views)
        return None
    return args


def starts_from_weights(args: list[str]) -> bool:
    """Whether options name weights that the model starts from."""
    return any(token.partition("=")[0] == "--model.weights" for token in args)


def _on_files(args: list[str], images: str) -> list[str]:
    name, _ = _take(args, "--ckpt_path")
    if name is None and not starts_from_weights(args):
        raise ValueError("--images needs the model that predicts them: name its checkpoint (--ckpt_path best).")
    if not Path(images).expanduser().exists():
        raise FileNotFoundError(f"there is no folder {images!r} (--images).")
    if name is None:  # weights of a whole detector, which take images as they are
        return [args[0], "--data=ImageFilesDataModule", f"--data.root={images}", "--data.whole=true", *args[1:]]
    root, _ = _take(args, "--trainer.default_root_dir")
    checkpoint = find_checkpoint(name, root)
    data = _as_trained(checkpoint)
    kept, rest, tokens = [], [], iter(args)
    for token in tokens:
        option, equals, value = token.partition("=")
        if option != "--data" and not option.startswith("--data."):
            rest.append(token)
            continue
        value = value if equals else next(tokens, "")
        if option.removeprefix("--data.") in _KEPT:
            kept.append(f"{option}={value}")
    data["root"] = images
    given = [f"--data.{key}={_text(value)}" for key, value in data.items() if value is not None]
    return [*rest, "--data=ImageFilesDataModule", *given, *kept]


def _as_trained(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options of images that are read as those that a checkpoint was trained on.

    Raises:
        ValueError: If they are cut to squares, and the model is for other images.
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
        raise ValueError(f"{checkpoint.path} is for images of {size}: --images takes models for square ones.")
    return {**data, "image_size": sides[0]}


def _trained_range(data: Mapping[str, Any]) -> list[float] | None:
    """Return the range of values that images were scaled by in training; of two domains, that of the target."""
    target = data.get("target")
    inner = target.get("init_args") if isinstance(target, Mapping) else None
    found = (inner if isinstance(inner, Mapping) else data).get("value_range")
    if isinstance(found, list | tuple) and all(isinstance(value, int | float) for value in found):
        return list(found)
    return None


def _text(value: object) -> str:
    """Return a value as an option takes it, in YAML: there, letters beyond 16 bits are no pairs as in JSON."""
    if isinstance(value, str):
        return value
    return _PAIR.sub(_joined, json.dumps(value))


def _joined(pair: re.Match[str]) -> str:
    letter = json.loads(f'"{pair[0]}"')
    return f"\\U{ord(letter):08x}"


def _describe(args: list[str], images: str | None, views: str | None) -> None:
    from datamodules.folder import find_images

    name, _ = _take(args, "--ckpt_path")
    root, _ = _take(args, "--trainer.default_root_dir")
    if name is not None:
        path = str(find_checkpoint(name, root).path)
    else:
        path = "the weights that were given" if starts_from_weights(args) else "no checkpoint: untrained weights"
    what = "the images of the data"
    if images is not None:
        what = images if Path(images).is_file() else f"{len(find_images(Path(images)))} images in {images}"
    print(f"predict {what} with {path}" + (f", averaged over views ({views})" if views else ""))


def _take(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """Return the value of an option, and the other arguments."""
    value, rest, tokens = None, [], iter(args)
    for token in tokens:
        option, equals, given = token.partition("=")
        if option != name:
            rest.append(token)
        elif equals:
            value = given
        else:
            value = next(tokens, None)
            if value is None:
                raise ValueError(f"{name} needs a value.")
    return value, rest
