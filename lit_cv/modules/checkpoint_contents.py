"""Additional contents of a checkpoint: the class of the module, and what an exact resume needs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_cv.checkpoint_file import INITIAL_WEIGHTS
from lit_cv.contracts import ClassLists, data_of
from lit_cv.errors import argument
from lit_cv.loop_state import keep_validation_due
from lit_cv.modules.data_classes import restore_classes
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.nn import Backbone, Preprocessing

__all__ = ["add_contents", "image_preprocessing", "restore_contents"]


def add_contents(module: ExtensionPoints, checkpoint: dict[str, Any]) -> None:
    """Add class, seed, class names, running means and preprocessing to a checkpoint, under the key `lit_cv`."""
    checkpoint["lit_cv"] = {
        "class_path": f"{type(module).__module__}.{type(module).__qualname__}",
        "seed": module.seed,
        "train_means": module.means["train"].state_dict(),
        "classes": {name: list(names) for name, names in module.trained_classes.items()},
    }
    if names := data_of(module._trainer).class_names:
        checkpoint["lit_cv"]["class_names"] = [str(name) for name in names]
    if (preprocessing := image_preprocessing(module)) is not None:
        checkpoint["lit_cv"]["preprocessing"] = preprocessing.plain()
    if module._trainer is not None:
        keep_validation_due(module.trainer, checkpoint)
    # The checkpoint now contains the initial weights, and their files may move.
    hparams = checkpoint.get("hyper_parameters", {})
    hparams.update(dict.fromkeys(hparams.keys() & set(INITIAL_WEIGHTS)))


def restore_contents(module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint belongs to this module, and restore the seed, classes and preprocessing of its run.

    Raises:
        ValueError: If class, network or (in a fit) optimizer of the checkpoint differ, or if it is damaged.
    """
    extra, hparams = (_section(checkpoint, name) for name in ("lit_cv", "hyper_parameters"))
    saved_class = str(extra.get("class_path", type(module).__qualname__)).rpartition(".")[2]
    if saved_class != type(module).__name__:
        raise ValueError(
            f"the checkpoint holds a {saved_class}, not a {type(module).__name__}: load it as {saved_class}, or start "
            "from its weights with the argument `weights`."
        )
    for name in ("backbone", "optimizer"):
        if hparams.get(name, module.hparams[name]) != module.hparams[name] and _matters(name, module):
            raise ValueError(
                f"the checkpoint was trained with {name}={hparams[name]!r}, this run has {module.hparams[name]!r}: "
                f"leave {argument(name, module)} out, or start a new run from its weights with "
                f"{argument('weights', module)}."
            )
    seed = extra.get("seed")
    if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 1 << 64):
        raise ValueError(f"the checkpoint is damaged: its seed is {str(seed)[:40]!r}, not a non-negative integer.")
    module.seed = seed
    if (preprocessing := extra.get("preprocessing")) is not None:
        try:
            module.restored_preprocessing = Preprocessing.from_plain(preprocessing)
        except ValueError as error:
            raise ValueError(f"the checkpoint is damaged: {error}") from None
    _keep_user_normalization(module, checkpoint)
    restore_classes(module, _classes(extra))
    module.means["train"].load_state_dict(_section(extra, "train_means"), module.device)


def image_preprocessing(module: ExtensionPoints) -> Preprocessing | None:
    """Return the preprocessing that a module's backbone expects, `None` if it has no backbone."""
    backbone, restored = module._modules.get("backbone"), module.restored_preprocessing
    if not isinstance(backbone, Backbone):
        return restored
    current = backbone.preprocessing
    return current if restored is None else replace(restored, mean=current.mean, std=current.std)


def _keep_user_normalization(module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
    """Let mean and standard deviation set by the user override those in the checkpoint's weights."""
    backbone, state = module._modules.get("backbone"), checkpoint.get("state_dict")
    if module.hparams["mean"] is None or not isinstance(backbone, Backbone) or not isinstance(state, dict):
        return
    for key, value in backbone.named_buffers(recurse=False):
        if f"backbone.{key}" in state:
            state[f"backbone.{key}"] = value.detach().clone()


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"the checkpoint is damaged: its field {name} is a {type(section).__name__}, not a dict.")
    return section


def _classes(extra: Mapping[str, Any]) -> ClassLists:
    """Return the classes listed in a checkpoint, or in one of an earlier version its data's class names."""
    names = extra.get("class_names")
    classes = extra.get("classes", {"class_names": names} if names else {})
    lists = classes.values() if isinstance(classes, Mapping) else [None]
    if not all(isinstance(entries, list) and all(isinstance(name, str) for name in entries) for entries in lists):
        raise ValueError("the checkpoint is damaged: its classes are not lists of names.")
    return {str(attribute): list(entries) for attribute, entries in classes.items()}


def _matters(name: str, module: ExtensionPoints) -> bool:
    return name != "optimizer" or (module._trainer is not None and module.trainer.state.fn == "fit")
