"""The classes of a module and those of the data: matched by their names, never by their positions."""

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

__all__ = ["match_data_classes", "take_up_classes"]

log = logging.getLogger("lit_cv")

_WHAT = {"class_names": "classes", "box_classes": "classes of boxes", "mask_classes": "classes of pixels"}


def match_data_classes(module: ExtensionPoints) -> None:
    """Number the classes of the data as the module does, which has learned them or is about to.

    What the module knows comes from the checkpoint that the Trainer is about to load, from its own training, or from
    its arguments. The data's labels are renumbered where the order differs.

    Raises:
        ValueError: If the data have other classes than the module.
    """
    trainer = module._trainer
    datamodule = datamodule_of(trainer)
    if datamodule is None:
        return
    found = module.classes_in(datamodule)
    path = as_data(datamodule).checkpoint_path
    learned = {**module.declared_classes(), **module.trained_classes, **_in_checkpoint(path)}
    for attribute, names in found.items():
        if attribute in learned:
            _match(datamodule, attribute, learned[attribute], names)
    module.trained_classes |= {name: learned.get(name, names) for name, names in found.items()}


def take_up_classes(module: ExtensionPoints, classes: ClassLists) -> None:
    """Take up the classes of a checkpoint that is being loaded; the data follow if they were not matched with it.

    Args:
        module: The module, which may be built already.
        classes: What its weights tell apart.
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
            f"{error} Rename the {_WHAT.get(attribute, attribute)} of the data, choose them with {option}, or start a "
            f"new run from the weights ({argument('weights')})."
        ) from None
    if numbers == list(range(len(numbers))):
        return
    renumber = as_data(datamodule).renumber_classes
    if renumber is None:
        raise ValueError(
            f"{type(datamodule).__name__} lists its {_WHAT.get(attribute, attribute)} in another order than the model "
            f"({', '.join(learned[:8])}): order them so ({option})."
        )
    renumber(attribute, numbers, list(learned))
    log.info(
        "The %s of the data are numbered as the model has learned them: %s.",
        _WHAT.get(attribute, attribute),
        printable(", ".join(learned[:8]), lines=False) + (", ..." if len(learned) > 8 else ""),
    )


def _in_checkpoint(path: object) -> Mapping[str, list[str]]:
    """Return the classes that a checkpoint lists, nothing for one that only the Trainer can read."""
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        content = read_checkpoint(Path(path))
        given = {name: content.hyper_parameters.get(name) for name in ("box_classes", "mask_classes")}
        return {**{name: names for name, names in given.items() if isinstance(names, list)}, **content.classes}
    except (ValueError, OSError):  # the Trainer says what is wrong with it
        return {}
