"""Matching of a module's classes with those of the data by name, never by position."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.checkpoint_file import read_checkpoint
from lit_cv.class_matching import match_classes
from lit_cv.contracts import ClassLists, as_data, datamodule_of
from lit_cv.errors import DATA, argument
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.printable import printable

__all__ = ["checkpoint_classes", "match_data_classes", "restore_classes"]

log = logging.getLogger("lit_cv")

_DESCRIPTIONS = {"class_names": "classes", "box_classes": "classes of boxes", "mask_classes": "classes of pixels"}


def match_data_classes(module: ExtensionPoints) -> None:
    """Renumber the classes of the data to match the module's.

    The module's classes come from the checkpoint that the Trainer is about to load, from its previous training, or from
    its arguments. The data's labels are renumbered if the order differs.

    Raises:
        ValueError: If data and module have different classes.
    """
    trainer = module._trainer
    datamodule = datamodule_of(trainer)
    if datamodule is None:
        return
    data_classes = module.classes_in(datamodule)
    path = as_data(datamodule).checkpoint_path
    learned = {**module.declared_classes(), **module.trained_classes, **checkpoint_classes(path)}
    for attribute, names in data_classes.items():
        if attribute in learned:
            _match(datamodule, attribute, learned[attribute], names)
    module.trained_classes |= {name: learned.get(name, names) for name, names in data_classes.items()}


def restore_classes(module: ExtensionPoints, classes: ClassLists) -> None:
    """Set the classes of a checkpoint that is being loaded, and match the data with them if that has not been done.

    Args:
        module: The module, possibly with its networks already built.
        classes: The classes that the weights were trained for.
    """
    matched = all(module.trained_classes.get(name) == names for name, names in classes.items())
    module.trained_classes |= classes
    if not matched:
        match_data_classes(module)
        if module.has_networks:
            module.build_metrics()


def _match(datamodule: Any, attribute: str, learned: Sequence[str], names: Sequence[str]) -> None:
    option = argument("classes", DATA) if attribute != "mask_classes" else "classes.txt"
    try:
        numbers = match_classes(learned, names)
    except ValueError as error:
        raise ValueError(
            f"{error} Rename the {_DESCRIPTIONS.get(attribute, attribute)} of the data, select them with {option}, or "
            f"start a new run from the weights ({argument('weights')})."
        ) from None
    if numbers == list(range(len(numbers))):
        return
    renumber = as_data(datamodule).renumber_classes
    if renumber is None:
        raise ValueError(
            f"{type(datamodule).__name__} lists its {_DESCRIPTIONS.get(attribute, attribute)} in another order than "
            f"the model ({', '.join(learned[:8])}): list them in this order ({option})."
        )
    renumber(attribute, numbers, list(learned))
    log.info(
        "The %s of the data were renumbered to match the model: %s.",
        _DESCRIPTIONS.get(attribute, attribute),
        printable(", ".join(learned[:8]), lines=False) + (", ..." if len(learned) > 8 else ""),
    )


def checkpoint_classes(path: object) -> Mapping[str, list[str]]:
    """Return the classes listed in a checkpoint, {} if this function cannot read it."""
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        content = read_checkpoint(Path(path))
        options = {name: content.hyper_parameters.get(name) for name in ("box_classes", "mask_classes")}
        return {**{name: names for name, names in options.items() if isinstance(names, list)}, **content.classes}
    except (ValueError, OSError):  # the Trainer reports the problem
        return {}
