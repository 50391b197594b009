"""What a checkpoint holds besides Lightning's part: whose it is, and what an exact resume needs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_cv.contracts import ClassLists, data_of
from lit_cv.errors import argument
from lit_cv.loop_state import keep_validation_due
from lit_cv.modules.data_classes import take_up_classes
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.nn import Backbone, Preprocessing

__all__ = ["add_contents", "prepared_images", "take_contents"]


def add_contents(module: ExtensionPoints, checkpoint: dict[str, Any]) -> None:
    """Add under `lit_cv` the class, the seed, the names of the classes, running means, and how images are prepared."""
    checkpoint["lit_cv"] = {
        "class_path": f"{type(module).__module__}.{type(module).__qualname__}",
        "seed": module.seed,
        "train_means": module.means["train"].state_dict(),
        "classes": {name: list(names) for name, names in module.trained_classes.items()},
    }
    if names := data_of(module._trainer).class_names:
        checkpoint["lit_cv"]["class_names"] = [str(name) for name in names]
    if (prepared := prepared_images(module)) is not None:
        checkpoint["lit_cv"]["preprocessing"] = prepared.plain()
    if module._trainer is not None:
        keep_validation_due(module.trainer, checkpoint)
    # The weights that training started from are in the checkpoint now, and may not stay where they were.
    if "weights" in checkpoint.get("hyper_parameters", {}):
        checkpoint["hyper_parameters"]["weights"] = None


def take_contents(module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another class, and take up the seed of its run.

    Raises:
        ValueError: If the checkpoint holds another class or network, or its training another optimizer.
    """
    extra, before = (_section(checkpoint, name) for name in ("lit_cv", "hyper_parameters"))
    held = str(extra.get("class_path", type(module).__qualname__)).rpartition(".")[2]
    if held != type(module).__name__:
        raise ValueError(
            f"the checkpoint holds a {held}, not a {type(module).__name__}: "
            f"load it as {held}, or start from its weights with the argument `weights`."
        )
    for name in ("backbone", "optimizer"):
        if before.get(name, module.hparams[name]) != module.hparams[name] and _matters(name, module):
            raise ValueError(
                f"the checkpoint was trained with {name}={before[name]!r}, this run has {module.hparams[name]!r}: "
                f"leave {argument(name, module)} out, or start a new run from its weights with "
                f"{argument('weights', module)}."
            )
    seed = extra.get("seed")
    if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 1 << 64):
        raise ValueError(f"the checkpoint is damaged: its seed is {str(seed)[:40]!r}, not a number from 0 on.")
    module.seed = seed
    if (prepared := extra.get("preprocessing")) is not None:
        try:
            module.restored_preprocessing = Preprocessing.from_plain(prepared)
        except ValueError as error:
            raise ValueError(f"the checkpoint is damaged: {error}") from None
    _keep_given_normalization(module, checkpoint)
    take_up_classes(module, _classes(extra))
    module.means["train"].load_state_dict(_section(extra, "train_means"), module.device)


def prepared_images(module: ExtensionPoints) -> Preprocessing | None:
    """Return how images are prepared for the backbone of a module, `None` if it has none."""
    backbone, before = module._modules.get("backbone"), module.restored_preprocessing
    if not isinstance(backbone, Backbone):
        return before
    current = backbone.preprocessing
    return current if before is None else replace(before, mean=current.mean, std=current.std)


def _keep_given_normalization(module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
    """Have a mean and standard deviation that were given win over those in the checkpoint's weights."""
    backbone, state = module._modules.get("backbone"), checkpoint.get("state_dict")
    if module.hparams["mean"] is None or not isinstance(backbone, Backbone) or not isinstance(state, dict):
        return
    for key, value in backbone.named_buffers(recurse=False):
        if f"backbone.{key}" in state:
            state[f"backbone.{key}"] = value.detach().clone()


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"the checkpoint is damaged: its field {name} is a {type(found).__name__}, not a dict.")
    return found


def _classes(extra: Mapping[str, Any]) -> ClassLists:
    """Return the classes that a checkpoint lists; of one of an earlier version, the names of its data's classes."""
    names = extra.get("class_names")
    classes = extra.get("classes", {"class_names": names} if names else {})
    lists = classes.values() if isinstance(classes, Mapping) else [None]
    if not all(isinstance(entries, list) and all(isinstance(name, str) for name in entries) for entries in lists):
        raise ValueError("the checkpoint is damaged: its classes are no lists of names.")
    return {str(attribute): list(entries) for attribute, entries in classes.items()}


def _matters(name: str, module: ExtensionPoints) -> bool:
    return name != "optimizer" or (module._trainer is not None and module.trainer.state.fn == "fit")
