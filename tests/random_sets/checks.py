"""Random sets are read back and converted without losing or inventing objects."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import AnnotatedImagesDataModule, CSVDataModule, ImageFolderDataModule
from datamodules.base import BaseDataModule
from lit_cv.annotations import AnnotationSet, Problems, convert, load_mask, read_annotations
from lit_cv.annotations.classes import read_class_table, read_folders
from tests.random_sets.formats import BOXES, LABELS, is_text, table_columns
from tests.random_sets.images import Photo, Thing, add_junk
from tests.random_sets.masks import instances, masks

__all__ = ["KINDS", "check_set"]

KINDS = (*BOXES, "masks", "instances", *LABELS)
_NEAR = 0.03  # pixels; some files store two digits
_WHOLE: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0, "num_workers": 0, "batch_size": 4}


def check_set(seed: int, root: Path) -> str:
    """Write a random set, read it and convert it.

    Args:
        seed: Seed of the set.
        root: An empty folder.

    Returns:
        Its format.

    Raises:
        AssertionError: If the content read differs from what was written.
    """
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    source = root / "set"
    source.mkdir()
    if kind == "masks":
        photos, names = masks(rng, source)
        add_junk(rng, source)
        _check_masks(rng, source, photos, names)
    elif kind == "instances":
        photos = instances(rng, source)
        add_junk(rng, source)
        _check_boxes(rng, source, photos, root / "out", kind, format=kind)
    elif kind in BOXES:
        photos = BOXES[kind](rng, source)
        add_junk(rng, source)
        _check_boxes(rng, source, photos, root / "out", kind)
    else:
        photos = LABELS[kind](rng, source)
        add_junk(rng, source)
        _check_labels(rng, source, photos, root / "out", kind)
    return kind


def _read(root: Path, **options: Any) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems, **options)
    problems.stop()
    return sets


def _check_boxes(rng: random.Random, root: Path, photos: Sequence[Photo], out: Path, kind: str, **options: Any) -> None:
    sets = _read(root, **options)
    expected = {(p.split, str(p.path)): (p.height, p.width, _things(p.things)) for p in photos}
    assert _same(_near(_found(sets), expected), expected)
    if rng.random() < 0.3:
        data = AnnotatedImagesDataModule(str(root), image_size=rng.choice([None, 16]), **_WHOLE, **options)
        counts = {name: len(batch["boxes"][0]) for name, batch in _samples(data)}
        assert _same(counts, {str(p.path): len(p.things) for p in photos}, "boxes in the batches")
    if rng.random() < 0.5:
        to = rng.choice([name for name in ("coco", "yolo", "voc") if name != kind])
        try:
            convert(str(root), str(out), to, options.get("format", "auto"))  # type: ignore[arg-type]
        except ValueError as error:
            if to == "voc" and "not UTF-8" in str(error) and not all(is_text(photo.name) for photo in photos):
                return
            raise
        keep = [(p, [thing for thing in p.things if to == "coco" or not thing.crowd]) for p in photos]
        wanted = {(p.split, _relative(sets, p)): (p.height, p.width, _things(things)) for p, things in keep}
        assert _same(_near(_found(_read(out), whole=False), wanted), wanted, f"converted to {to}")


def _relative(sets: Mapping[str, AnnotationSet], photo: Photo) -> str:
    return photo.path.relative_to(sets[photo.split].folder).as_posix()


def _found(sets: Mapping[str, AnnotationSet], whole: bool = True) -> dict[tuple[str, str], Any]:
    found = {}
    for split, part in sets.items():
        for image in part.images:
            things = [Thing(part.categories[item.category], item.box, crowd=item.crowd) for item in image.objects]
            key = split, str(part.folder / image.name) if whole else image.name
            assert key not in found
            found[key] = (image.height, image.width, _things(things))
    return found


def _things(things: Sequence[Thing]) -> list[Any]:
    return sorted((thing.name, list(thing.box), thing.crowd) for thing in things)


def _near(found: dict[Any, Any], expected: dict[Any, Any]) -> dict[Any, Any]:
    """Return the content read, with boxes that differ only by rounding replaced by the written ones."""
    near = dict(found)
    for key in found.keys() & expected.keys():
        things, left = found[key][2], list(expected[key][2])
        for k, (name, box, crowd) in enumerate(things):
            match = [w for w in left if (w[0], w[2]) == (name, crowd) and max(map(_distance, box, w[1])) < _NEAR]
            if match:
                things[k] = match[0]
                left.remove(match[0])
        near[key] = (*found[key][:2], sorted(things))
    return near


def _distance(a: float, b: float) -> float:
    return abs(a - b)


def _samples(data: BaseDataModule) -> list[tuple[str, dict[str, Any]]]:
    data.setup()
    parts = [part for part in (data.train_dataset, data.val_dataset, data.test_dataset) if part is not None]
    return [(str(part.root / part.sample_name(k)), part.__getitems__([k])) for part in parts for k in range(len(part))]


def _check_masks(rng: random.Random, root: Path, photos: Sequence[Photo], names: list[str]) -> None:
    sets = _read(root)
    found = {}
    for split, part in sets.items():
        assert _same(part.mask_classes, names)
        for image in part.images:
            assert image.mask is not None
            found[split, str(part.folder / image.name)] = load_mask(image.mask, code=part.mask_code).tolist()
    assert _same(found, {(p.split, str(p.path)): p.classes.tolist() for p in photos if p.classes is not None})
    if rng.random() < 0.3:
        data = AnnotatedImagesDataModule(str(root), image_size=None, **_WHOLE)
        batches = {name: batch["mask"][0] for name, batch in _samples(data)}
        shown = {name: mask.tolist() for name, mask in batches.items()}
        for photo in photos:
            assert photo.classes is not None
            rows = shown[str(photo.path)][: photo.height]
            assert _same([row[: photo.width] for row in rows], photo.classes.tolist(), "masks in the batches")


def _check_labels(rng: random.Random, root: Path, photos: Sequence[Photo], out: Path, kind: str) -> None:
    several = any(len(photo.labels) > 1 for photo in photos)
    if kind == "table":
        columns = table_columns(root / "images.csv")
        options = {"label_columns": columns} if columns else {"label_separator": "|" if several else None}
        several = several or bool(columns)
        data: BaseDataModule = CSVDataModule(str(root / "images.csv"), image_size=8, **options, **_WHOLE)
    else:
        data = ImageFolderDataModule(str(root), image_size=8, **_WHOLE)
    data.setup()
    parts = {"train": data.train_dataset, "val": data.val_dataset, "test": data.test_dataset}
    found = {}
    for split, part in parts.items():
        for k in range(len(part) if part is not None else 0):
            label = part[k]["label"]
            numbers = label.nonzero().flatten().tolist() if label.ndim else [int(label)]
            found[split, str(part.root / part.sample_name(k))] = sorted(data.class_names[n] for n in numbers)
    expected = {(p.split.replace("all", "train"), str(p.path)): sorted(p.labels) for p in photos}
    assert _same(found, expected)
    if not several and rng.random() < 0.5:
        to = "folders" if kind == "table" else "csv"
        wanted = sorted((p.split, p.labels[0], p.path.name) for p in photos)
        try:
            convert(str(root), str(out), to, kind.replace("table", "csv"))  # type: ignore[arg-type]
        except ValueError as error:
            if not any(reason in str(error) for reason in ("would share a file", "points outside the output folder")):
                raise
            return
        problems = Problems()
        sets = read_folders(out, problems) if to == "folders" else read_class_table(out / "images.csv", problems)
        problems.stop()
        again = [(s, image.label, image.name.rpartition("/")[2]) for s, part in sets.items() for image in part.images]
        assert _same(sorted(again, key=str), sorted(wanted, key=str), f"converted to {to}")


def _same(found: Any, expected: Any, what: str = "") -> bool:
    """Describe how two values differ."""
    if found == expected:
        return True
    if isinstance(found, dict) and isinstance(expected, dict):
        lost = {key: value for key, value in expected.items() if key not in found}
        invented = {key: value for key, value in found.items() if key not in expected}
        other = {k: (found[k], expected[k]) for k in expected if k in found and found[k] != expected[k]}
        raise AssertionError(
            f"{what}\nlost: {lost!a}\ninvented: {invented!a}\nother (found, written): {other!a}"[:3000]
        )
    raise AssertionError(f"{what}\nfound {found!a}\nwritten {expected!a}"[:3000])
