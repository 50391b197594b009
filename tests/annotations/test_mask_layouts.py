"""Location of the masks of a set."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from lit_cv.annotations import AnnotationSet, MaskOptions, Problems, read_annotations, save_mask
from tests.annotations.sets import save_image


def save(root: Path, *pairs: tuple[str, str]) -> None:
    """Write images and masks at these paths; each mask contains 0, 1 and 2."""
    for image, mask in pairs:
        save_image(root / image, 20, 30)
        save_mask(np.arange(600).reshape(20, 30) % 3, root / mask)
    (root / "classes.txt").write_text("ground\ntree\nhouse\n")


def read(root: Path, where: str | None = None, **options: Any) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems, masks=MaskOptions(where=where), **options)
    problems.stop()
    return sets


def found(root: Path, where: str | None = None, **options: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the paths of images and masks relative to the root, by split."""
    return {
        split: [
            ((part.folder / image.name).relative_to(root).as_posix(), image.mask.relative_to(root).as_posix())
            for image in part.images
            if image.mask
        ]
        for split, part in read(root, where, **options).items()
    }


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{}", "{}annot"),  # CamVid of SegNet
        ("{}", "{}_labels"),  # CamVid of Kaggle
        ("{}_images", "{}_masks"),
        ("images/{}", "masks/{}"),
        ("{}/images", "{}/masks"),
        ("img_dir/{}", "ann_dir/{}"),  # MMSegmentation
    ],
)
def test_split_folders(tmp_path: Path, images: str, masks: str) -> None:
    pairs = {
        split: (f"{images.format(split)}/{split}.png", f"{masks.format(split)}/{split}.png")
        for split in ("train", "val", "test")
    }
    save(tmp_path, *pairs.values())
    assert found(tmp_path) == {split: [pair] for split, pair in pairs.items()}


@pytest.mark.parametrize("ending", ["_mask", "_L", "_label", "_gt"])
def test_mask_suffixes(tmp_path: Path, ending: str) -> None:
    pairs = [(f"images/deep/{name}.jpg", f"masks/deep/{name}{ending}.png") for name in ("a", "b")]
    save(tmp_path, *pairs)
    assert found(tmp_path) == {"all": pairs}


def test_mask_template(tmp_path: Path) -> None:
    cities = [
        (f"leftImg8bit/{key}_leftImg8bit.png", f"gtFine/{key}_gt_ids.png")
        for key in ("train/aachen/aachen_1", "train/aachen/aachen_2", "val/aachen/aachen_3")
    ]
    save(tmp_path, *cities)
    folders = {split: tmp_path / "leftImg8bit" / split for split in ("train", "val")}
    expected = {"train": cities[:2], "val": cities[2:]}
    for where in (
        "gtFine/{split}/{path-_leftImg8bit}_gt_ids.png",
        "gtFine/{split}/{folder}/{stem-_leftImg8bit}_gt_ids.png",
        "gtFine/{split}/{folder}/{stem-_leftImg8bit}_gt_ids",
    ):
        assert found(tmp_path, where, folders=folders) == expected
    data = AnnotatedImagesDataModule(
        str(tmp_path),
        images={"train": "leftImg8bit/train", "val": "leftImg8bit/val"},
        masks="gtFine/{split}/{path-_leftImg8bit}_gt_ids.png",
        image_size=None,
        num_workers=0,
    )
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset or [])) == (2, 1)
    assert data.mask_classes == ["ground", "tree", "house"]


def test_mask_folder(tmp_path: Path) -> None:
    pairs = [(f"PNGImages/{name}.png", f"PedMasks/{name}.png") for name in ("a", "b")]
    save(tmp_path, *pairs)
    folders = dict.fromkeys(("all", "train", "val", "test"), tmp_path / "PNGImages")
    assert found(tmp_path, "PedMasks", folders=folders) == {"all": pairs}
    assert found(tmp_path, "PedMasks/{path}", folders=folders) == {"all": pairs}
    splits = [("photos/train/a.png", "truth_train/a.png"), ("photos/val/b.png", "truth_val/b.png")]
    save(tmp_path / "other", *splits)
    folders = {split: tmp_path / "other/photos" / split for split in ("train", "val")}
    expected = {"train": splits[:1], "val": splits[1:]}
    assert found(tmp_path / "other", "truth_{split}", folders=folders) == expected


def test_masks_outside_the_folder(tmp_path: Path) -> None:
    save(tmp_path, ("set/images/a.png", "truth/a.png"))
    data = AnnotatedImagesDataModule(
        str(tmp_path / "set"), masks="../truth", image_size=None, num_workers=0, val_fraction=0, test_fraction=0
    )
    data.setup()
    assert data.mask_classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("masks/{name}.png", r"contains 'name': use {split}, {path}, {folder}, {stem}"),
        ("masks/{stem.png", "contains 'a brace'"),
        ("truth/{stem}.png", r"no image in .* has a mask at truth/{stem}.png: set `masks` or `images`"),
    ],
)
def test_invalid_templates(tmp_path: Path, where: str, message: str) -> None:
    save(tmp_path, ("images/a.png", "masks/a.png"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(tmp_path, where)


@pytest.mark.parametrize("names", ["train2017 val2017", "my_train my_val"])
def test_split_folders_with_other_names(tmp_path: Path, names: str) -> None:
    train, val = names.split()
    save(tmp_path, (f"images/{train}/a.png", f"masks/{train}/a.png"), (f"images/{val}/b.png", f"masks/{val}/b.png"))
    expected = {
        "train": [(f"images/{train}/a.png", f"masks/{train}/a.png")],
        "val": [(f"images/{val}/b.png", f"masks/{val}/b.png")],
    }
    assert found(tmp_path) == expected
    assert found(tmp_path, "masks/{split}/{path}") == expected


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_error_names_lossy_masks(tmp_path: Path, suffix: str) -> None:
    save_image(tmp_path / "images" / "a.png", 20, 30)
    save_image(tmp_path / "masks" / f"a.{suffix}", 20, 30)
    with pytest.raises(FileNotFoundError, match=rf"a\.{suffix}: masks must be lossless files .*\.png"):
        read(tmp_path)


def test_masks_in_other_normal_form(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for size, name in enumerate(names, 5):
            Image.new("L", (size, 4), 1).save(tmp_path / folder / f"{name}.png")
    if len(list((tmp_path / "images").iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    problems = Problems()
    (found,) = read_annotations(tmp_path, problems).values()
    problems.stop()
    assert {image.name: image.mask for image in found.images} == {
        f"{name}.png": tmp_path / "masks" / f"{name}.png" for name in names
    }
