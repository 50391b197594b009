"""Renamed arguments are accepted from Python under both names."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules import ImageFolderDataModule
from lit_cv import SupervisedModule
from lit_cv.renamed_arguments import renamed_arguments


class SmallPhotos(ImageFolderDataModule):
    """A subclass written against the old name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(train_size=24, **kwargs)


class CroppedPhotos(ImageFolderDataModule):
    """A subclass whose own argument has the old name."""

    def __init__(self, train_size: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class OldLearner(SupervisedModule):
    """A module that renamed an argument."""

    renamed_arguments: ClassVar[dict[str, str]] = {"turns": "rotations"}

    def __init__(self, rotations: int = 4, turns: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize("build", [lambda: ImageFolderDataModule(train_size=24), SmallPhotos])
def test_old_name_warns_and_sets_new_argument(build: Any) -> None:
    with pytest.warns(FutureWarning, match="train_size is now called train_image_size"):
        data = build()
    assert data.hparams["train_image_size"] == 24
    assert "train_size" not in data.hparams


def test_modules_rename_arguments_too() -> None:
    with pytest.warns(FutureWarning, match="turns is now called rotations"):
        module = OldLearner(turns=2)
    assert module.hparams["rotations"] == 2
    assert "turns" not in module.hparams


def test_old_and_new_name_must_agree() -> None:
    with pytest.raises(ValueError, match="train_size=24: train_image_size=32 was given, too"):
        ImageFolderDataModule(train_image_size=32, train_size=24)


def test_value_under_old_name_is_checked() -> None:
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="train_image_size=0: must be at least 1"):
        ImageFolderDataModule(train_size=0)


def test_subclass_may_use_an_old_name_for_its_own_argument() -> None:
    data = CroppedPhotos(train_size=8)
    assert data.hparams["train_size"] == 8
    assert data.hparams["train_image_size"] is None


def test_builtin_classes_have_no_renamed_arguments() -> None:
    assert renamed_arguments(dict) == {}


def test_new_name_does_not_warn(tmp_path: Path) -> None:
    assert ImageFolderDataModule(str(tmp_path), train_image_size=24).hparams["train_image_size"] == 24
