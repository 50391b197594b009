"""Names of the images and classes that predictions are of."""

from collections.abc import Sequence, Sized

import lightning as L

from lit_cv.annotations.voc import voc_lacks
from lit_cv.contracts import as_dataset, as_module, class_lists, datamodule_of, dataset_of
from lit_cv.errors import argument
from lit_cv.printable import printable

__all__ = ["check_voc_names", "image_names", "listed_classes"]


def image_names(trainer: L.Trainer, indices: Sequence[int]) -> dict[int, str]:
    """Return the names of images by their positions in the dataset; the positions where they have none."""
    dataset = dataset_of(trainer.predict_dataloaders)
    sample_name = as_dataset(dataset).sample_name or str
    return {index: str(sample_name(index)) for index in indices}


def listed_classes(trainer: L.Trainer, attribute: str) -> list[str]:
    """Return the names of classes from the DataModule, or else as the module has learned them."""
    learned = as_module(trainer.lightning_module).trained_classes
    return class_lists(datamodule_of(trainer), attribute).get(attribute) or list(learned.get(attribute) or [])


def check_voc_names(trainer: L.Trainer) -> None:
    """Refuse names that VOC's files have no place for, before the work is done."""
    dataset = dataset_of(trainer.predict_dataloaders)
    named = isinstance(dataset, Sized) and as_dataset(dataset).sample_name is not None
    count = len(dataset) if named else 0
    classes = listed_classes(trainer, "box_classes")
    wrong = [name for name in (*image_names(trainer, range(count)).values(), *classes) if voc_lacks(name)]
    if wrong:
        raise ValueError(
            f"VOC's files have no place for the name '{printable(wrong[0], lines=False)}' ({len(wrong)} in all), which "
            "is not UTF-8 or has control characters: rename it, or choose coco or yolo "
            f"({argument('format', 'PredictionWriter')})."
        )
