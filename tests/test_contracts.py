"""Views of custom modules and DataModules that lack members of a protocol."""

from types import SimpleNamespace

import lightning as L
import pytest

from datamodules import DigitsDataModule
from lit_cv import SupervisedModule
from lit_cv.contracts import as_data, as_module, class_lists, data_of, module_extras


class CustomModule(L.LightningModule):
    monitor = "val_custom"

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 3


def test_missing_members_have_protocol_values() -> None:
    module, data = as_module(CustomModule()), as_data(L.LightningDataModule())
    assert (module.monitor, module.mode, module.uses_unlabeled, module.embed) == ("val_custom", "min", False, None)
    assert module.needs_images
    assert (data.num_classes, data.class_names, data.image_size, data.class_counts) == (None, (), None, None)
    assert module_extras(CustomModule()).num_classes == 3
    assert data_of(None).batch_size == 1


def test_existing_members_are_returned() -> None:
    datamodule = DigitsDataModule(batch_size=7)
    datamodule.setup()
    data = as_data(datamodule)
    assert (data.batch_size, data.num_classes, data.image_size) == (7, 10, (8, 8))
    assert data.class_counts is not None
    assert len(data.class_counts()) == 10
    assert data_of(SimpleNamespace(datamodule=datamodule)).num_classes == 10
    assert as_module(SupervisedModule(backbone="conv4")).monitor == "val_acc"
    assert class_lists(datamodule, "class_names", "box_classes", "missing") == {"class_names": list("0123456789")}


def test_unknown_member_raises() -> None:
    with pytest.raises(AttributeError, match=r"^Data has no member 'batchsize'\.$"):
        _ = as_data(DigitsDataModule()).batchsize  # type: ignore[attr-defined]
