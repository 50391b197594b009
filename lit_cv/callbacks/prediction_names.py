"""Names of predicted images and classes."""

from collections.abc import Sequence, Sized

import lightning as L

from lit_cv.annotations.voc import invalid_in_xml
from lit_cv.contracts import as_dataset, as_module, class_lists, datamodule_of, dataset_of
from lit_cv.errors import argument
from lit_cv.printable import printable

__all__ = ["check_voc_names", "image_names", "listed_classes"]


def image_names(trainer: L.Trainer, indices: Sequence[int]) -> dict[int, str]:
    """Return the names of images by dataset position, or the positions as text if the dataset has no names."""
    dataset = dataset_of(trainer.predict_dataloaders)
    sample_name = as_dataset(dataset).sample_name or str
    return {index: str(sample_name(index)) for index in indices}


def listed_classes(trainer: L.Trainer, attribute: str) -> list[str]:
    """Return class names from the DataModule, or else from the module's training."""
    learned = as_module(trainer.lightning_module).trained_classes
    return class_lists(datamodule_of(trainer), attribute).get(attribute) or list(learned.get(attribute) or [])


def check_voc_names(trainer: L.Trainer) -> None:
    """Raise an error for names that VOC files cannot hold, before anything is predicted."""
    dataset = dataset_of(trainer.predict_dataloaders)
    named = isinstance(dataset, Sized) and as_dataset(dataset).sample_name is not None
    count = len(dataset) if named else 0
    classes = listed_classes(trainer, "box_classes")
    invalid = [name for name in (*image_names(trainer, range(count)).values(), *classes) if invalid_in_xml(name)]
    if invalid:
        raise ValueError(
            f"VOC files cannot hold the name '{printable(invalid[0], lines=False)}' ({len(invalid)} such names): it is "
            "not UTF-8 or has control characters. Rename it, or choose coco or yolo "
            f"({argument('format', 'PredictionWriter')})."
        )
