"""Writers of random sets in every format and its common variants, independent of the project's writers."""

import csv
import io
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import yaml

from lit_cv.annotations import encode_rle
from lit_cv.annotations.reading import decoded_text, open_plain
from tests.random_sets.images import SPLITS, Photo, Thing, add_things, draw_photos, save

ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16"]


def is_text(name: str) -> bool:
    """Return whether a name is UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file; names that are not UTF-8 keep their bytes if the encoding allows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict"))


def encoding_of(rng: random.Random, *texts: str) -> str:
    """Return an encoding that can represent the texts."""
    return rng.choice(ENCODINGS if all(map(is_text, texts)) else ENCODINGS[:3])


def split_names(rng: random.Random, photos: list[Photo]) -> dict[str, str]:
    """Return names for the folders or files of the splits."""
    splits = [split for split in dict.fromkeys(photo.split for photo in photos) if split != "all"]
    return {split: rng.choice(SPLITS[split]) for split in splits}


def in_any_case(rng: random.Random, names: dict[str, str]) -> dict[str, str]:
    """Return split names in lower case, capitalized, or in upper case."""
    change = rng.choice([str.lower, str.lower, str.capitalize, str.upper])
    return {split: change(name) for split, name in names.items()}


def line_end(rng: random.Random) -> str:
    """Return the line ending of a text."""
    return rng.choice(["\n", "\n", "\r\n"])


def coco(rng: random.Random, root: Path) -> list[Photo]:
    """Write COCO JSON files, with values as numbers or as text."""
    photos = draw_photos(rng)
    classes = add_things(rng, photos, outlines=True, crowds=True)
    names = split_names(rng, photos)
    numbers = rng.sample(range(0, 90), len(classes))
    as_text = rng.random() < 0.3

    def number(value: int) -> Any:
        return str(value) if as_text and rng.random() < 0.5 else value

    for split in dict.fromkeys(photo.split for photo in photos):
        subset = names.get(split, "images")
        entries: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
        entries["categories"] = [
            {"id": number(k), "name": _spoken(rng, c)} for k, c in zip(numbers, classes, strict=True)
        ]
        rng.shuffle(entries["categories"])
        for index, photo in enumerate(photo for photo in photos if photo.split == split):
            save(rng, root / subset / photo.name, photo)
            image = {"id": number(index), "file_name": photo.name.replace("/", rng.choice("/\\"))}
            if rng.random() < 0.8:
                image |= {"height": number(photo.height), "width": number(photo.width)}
            entries["images"].append(image)
            for thing in photo.things:
                entry = _coco_entry(rng, photo, thing)
                entry |= {"id": number(len(entries["annotations"])), "image_id": number(index)}
                entry["category_id"] = number(numbers[classes.index(thing.name)])
                entries["annotations"].append(entry)
        rng.shuffle(entries["annotations"])
        file = "instances.json" if split == "all" else f"instances_{subset}{rng.choice(['', '2017'])}.json"
        text = json.dumps(entries, ensure_ascii=not all(is_text(photo.name) for photo in photos) or rng.random() < 0.5)
        write(root / rng.choice(["annotations", "."]) / file, text, rng.choice(ENCODINGS))
    return photos


def _spoken(rng: random.Random, name: str) -> Any:
    return int(name) if name in ("7", "0", "12") and rng.random() < 0.5 else name


def _coco_entry(rng: random.Random, photo: Photo, thing: Thing) -> dict[str, Any]:
    left, top, right, bottom = thing.box
    crowds: list[Any] = [1, "1", True] if thing.crowd else [0, "0", False, None]
    entry: dict[str, Any] = {"iscrowd": rng.choice(crowds), "bbox": [left, top, right - left, bottom - top]}
    if thing.outline:
        points = [list(point) for point in zip(thing.outline[::2], thing.outline[1::2], strict=True)]
        forms: list[Any] = [[thing.outline], json.dumps([thing.outline]), thing.outline, [points]]
        entry["segmentation"] = rng.choice(forms)
        if rng.random() < 0.3:
            del entry["bbox"]
    elif all(value == int(value) for value in thing.box) and rng.random() < 0.2:
        mask = np.zeros((photo.height, photo.width), dtype=bool)
        mask[int(top) : int(bottom), int(left) : int(right)] = True
        entry["segmentation"] = encode_rle(mask)
    elif rng.random() < 0.3:
        entry["segmentation"] = rng.choice([[], None, ""])
    return entry


def yolo(rng: random.Random, root: Path) -> list[Photo]:
    """Write YOLO label files with boxes or polygons, in one of the common layouts."""
    photos = draw_photos(rng)
    classes = add_things(rng, photos, outlines=False, crowds=False)
    names = split_names(rng, photos)
    above = rng.random() < 0.4 and bool(names)
    end = line_end(rng)
    encoding = rng.choice(ENCODINGS)
    places: dict[str, tuple[str, str]] = {}
    for split in dict.fromkeys(photo.split for photo in photos):
        part = names.get(split, "")
        places[split] = (f"{part}/images", f"{part}/labels") if above else (f"images/{part}", f"labels/{part}")
    for photo in photos:
        images, labels = places[photo.split]
        save(rng, root / images / photo.name, photo)
        if photo.things or rng.random() < 0.7:
            lines = [_yolo_line(rng, photo, thing, classes) for thing in photo.things]
            write((root / labels / photo.name).with_suffix(".txt"), "".join(line + end for line in lines), encoding)
    if rng.random() < 0.5:
        write(root / "classes.txt", end.join(classes) + rng.choice(["", end]), encoding)
    else:
        listed: Any = rng.choice([classes, dict(enumerate(classes)), {str(k): name for k, name in enumerate(classes)}])
        content = {split: places[split][0] for split in names} | {"names": listed, "nc": len(classes)}
        style = {"default_style": rng.choice([None, '"', "'"]), "allow_unicode": True}
        write(root / rng.choice(["data.yaml", "my.yml"]), yaml.safe_dump(content, **style))
    return photos


def _yolo_line(rng: random.Random, photo: Photo, thing: Thing, classes: list[str]) -> str:
    left, top, right, bottom = thing.box
    w, h = photo.width, photo.height
    values = [(left + right) / 2 / w, (top + bottom) / 2 / h, (right - left) / w, (bottom - top) / h]
    if rng.random() < 0.2:
        values = [left / w, top / h, right / w, top / h, right / w, bottom / h, left / w, bottom / h]
    number = classes.index(thing.name)
    between = rng.choice([" ", " ", "\t", "  "])
    return between.join([rng.choice([str(number), f"{number}.0"]), *(f"{value:.8f}" for value in values)])


def voc(rng: random.Random, root: Path) -> list[Photo]:
    """Write Pascal VOC XML files, in its folders or beside the images."""
    photos = draw_photos(rng)
    add_things(rng, photos, outlines=False, crowds=False)
    names = split_names(rng, photos)
    beside = rng.random() < 0.4
    end = line_end(rng)
    for photo in photos:
        part = names.get(photo.split, "") if beside else ""
        images, annotations = (root / part, root / part) if beside else (root / "JPEGImages", root / "Annotations")
        save(rng, images / photo.name, photo)
        text, encoding = _voc_text(rng, photo)
        write((annotations / photo.name).with_suffix(".xml"), text.replace("\n", end), encoding)
    for split, name in {} if beside else names.items():
        stems = [os.path.splitext(photo.name)[0] for photo in photos if photo.split == split]
        write(root / f"ImageSets/Main/{name}.txt", end.join(stems) + end, encoding_of(rng, *stems))
    return photos


def _voc_text(rng: random.Random, photo: Photo) -> tuple[str, str]:
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1", "ascii"])
    text = "" if encoding == "utf-8-sig" else f'<?xml version="1.0" encoding="{encoding}"?>\n'
    text += "<annotation>\n"
    name = photo.name.rpartition("/")[2]
    if is_text(name) and rng.random() < 0.8:
        text += f"<filename>{escape(rng.choice([name, name, 'old name.jpg']))}</filename>\n"
    if rng.random() < 0.8:
        text += f"<size><width>{photo.width}</width><height>{photo.height}</height><depth>3</depth></size>\n"
    for thing in photo.things:
        left, top, right, bottom = thing.box
        corners = [("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)]
        rng.shuffle(corners)
        box = "".join(f"<{tag}>{value:.2f}</{tag}>" for tag, value in corners)
        text += f"<object><name>{escape(thing.name)}</name><bndbox>{box}</bndbox></object>\n"
    text += "</annotation>\n"
    if encoding in ("latin-1", "ascii"):
        text = text.encode("ascii", "xmlcharrefreplace").decode()
    return text, encoding


def labelme(rng: random.Random, root: Path) -> list[Photo]:
    """Write Labelme JSON files beside the images."""
    photos = draw_photos(rng)
    add_things(rng, photos, outlines=False, crowds=False)
    names = in_any_case(rng, split_names(rng, photos))
    for photo in photos:
        save(rng, root / names.get(photo.split, "") / photo.name, photo)
        shapes = [_shape(rng, thing) for thing in photo.things]
        content: dict[str, Any] = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        content["imagePath"] = photo.path.name
        if rng.random() < 0.8:
            content |= {"imageHeight": photo.height, "imageWidth": photo.width}
        text = json.dumps(content, indent=rng.choice([None, 2]), ensure_ascii=not is_text(photo.name))
        write(photo.path.with_suffix(".json"), text, rng.choice(ENCODINGS))
    return photos


def _shape(rng: random.Random, thing: Thing) -> dict[str, Any]:
    left, top, right, bottom = thing.box
    kind = rng.choice(["rectangle", "rectangle", "polygon"])
    corners = [[left, top], [right, bottom]] if rng.random() < 0.5 else [[right, top], [left, bottom]]
    outline = [[left, top], [right, top], [right, bottom], [left, bottom]]
    points = corners if kind == "rectangle" else outline
    return {"label": thing.name, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


def cvat(rng: random.Random, root: Path) -> list[Photo]:
    """Write CVAT XML files, one for each split."""
    photos = [photo for photo in draw_photos(rng) if is_text(photo.name)]
    if not any(photo.split in ("all", "train") for photo in photos):
        return cvat(rng, root)
    classes = add_things(rng, photos, outlines=False, crowds=False)
    names = split_names(rng, photos)
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in classes)
    for split in dict.fromkeys(photo.split for photo in photos):
        folder = root / names.get(split, "")
        text = f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        for number, photo in enumerate(photo for photo in photos if photo.split == split):
            save(rng, folder / "images" / photo.name, photo)
            text += f'<image id="{number}" name={quoteattr(photo.name)} width="{photo.width}" height="{photo.height}">'
            text += "".join(_cvat_shape(rng, thing) for thing in photo.things) + "</image>"
        write(folder / "annotations.xml", text + "</annotations>", rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    return photos


def _cvat_shape(rng: random.Random, thing: Thing) -> str:
    left, top, right, bottom = thing.box
    name = quoteattr(thing.name)
    if rng.random() < 0.6:
        return f'<box label={name} occluded="0" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"></box>'
    points = f"{left},{top};{right},{top};{right},{bottom};{left},{bottom}"
    return f'<polygon label={name} occluded="0" points="{points}"></polygon>'


def table(rng: random.Random, root: Path) -> list[Photo]:
    """Write a table of images with one label each, or several."""
    photos = draw_photos(rng)
    classes = rng.sample([name for name in _LABELS if "|" not in name], rng.randint(1, 4))
    several = rng.random() < 0.3
    for photo in photos:
        photo.labels = rng.sample(classes, rng.randint(1, len(classes))) if several else [rng.choice(classes)]
    first = next(photo for photo in photos if photo.split in ("all", "train"))
    first.labels = classes if several else first.labels
    used = {name for photo in photos if photo.split in ("all", "train") for name in photo.labels}
    for photo in photos:
        photo.labels = [name for name in photo.labels if name in used] or [first.labels[0]]
    slashes = rng.choice(["/", "/", "\\"])
    columns = several and len(used) > 1 and rng.random() < 0.5
    rows = [["path", *(sorted(used) if columns else ["label"])] + (["split"] if photos[0].split != "all" else [])]
    for photo in photos:
        save(rng, root / photo.name, photo)
        flags = [str(int(name in photo.labels)) for name in sorted(used)]
        row = [photo.name.replace("/", slashes), *(flags if columns else ["|".join(photo.labels)])]
        rows.append(row + ([rng.choice([*SPLITS[photo.split], photo.split.upper()])] if "split" in rows[0] else []))
    encoding = encoding_of(rng, *(photo.name for photo in photos))
    between = "," if any(mark in name for name in used for mark in ",;") else rng.choice([",", ",", ";", "\t"])
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=between, lineterminator=line_end(rng)).writerows(rows)
    write(root / "images.csv", text.getvalue(), encoding)
    return photos


def table_columns(path: Path) -> list[str]:
    """Return the column names of a table with one column per class."""
    with open_plain(path) as file:
        head = decoded_text(file.read(), "surrogateescape").splitlines()[0]
    between = next(mark for mark in ",;\t" if mark in head)
    names = [name for name in next(csv.reader([head], delimiter=between)) if name not in ("path", "split")]
    return [] if names == ["label"] else names


_LABELS = ["cat", "dog", "7", "0", "12", "Kätzchen", "two words", "a,b", "it's", "x:y", "#1", "true", "-", "猫", "a;b"]


def folders(rng: random.Random, root: Path) -> list[Photo]:
    """Write images into one folder per class."""
    photos = draw_photos(rng)
    classes = rng.sample(_LABELS, rng.randint(1, 4))
    names = in_any_case(rng, split_names(rng, photos))
    training = [photo for photo in photos if photo.split in ("all", "train")]
    for position, photo in enumerate(training):
        photo.labels = [classes[position] if position < len(classes) else rng.choice(classes)]
    used = sorted({photo.labels[0] for photo in training})
    for photo in photos:
        photo.labels = photo.labels or [rng.choice(used)]
        photo.name = f"{photo.labels[0]}/{photo.name}"
        save(rng, root / names.get(photo.split, "") / photo.name, photo)
    return photos


Writer = Callable[[random.Random, Path], list[Photo]]
BOXES: Mapping[str, Writer] = {"coco": coco, "yolo": yolo, "voc": voc, "labelme": labelme, "cvat": cvat}
LABELS: Mapping[str, Writer] = {"table": table, "folders": folders}
