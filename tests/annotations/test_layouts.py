"""Exports of annotation tools are read, trained on and converted."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from lit_cv.annotations import (
    AnnotationError,
    AnnotationSet,
    Problems,
    annotation_formats,
    decode_rle,
    find_format,
    read_annotations,
)
from lit_cv.annotations import formats as registry
from lit_cv.cli import main
from tests.annotations.sets import content, save_image

BOX = [2.0, 3.0, 12.0, 9.0]
SHAPES = [{"label": "x", "shape_type": "rectangle", "points": [[12, 9], [2, 3]]}]
XML = '<image id="{id}" name="{name}" subset="{subset}" width="60" height="40">{shapes}</image>'
CVAT_BOX = '<box label="x" occluded="0" xtl="2" ytl="3" xbr="12" ybr="9" z_order="0"></box>'


def read(root: Path) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems)
    problems.stop()
    return sets


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save_voc(root: Path, xml: str, image: str, name: str = "") -> None:
    box = "<xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>9</ymax>"
    thing = f"<object><name>x</name><bndbox>{box}</bndbox></object>"
    write(root / xml, f"<annotation><filename>{name}</filename>{thing}</annotation>")
    save_image(root / image, 40, 60)


def save_coco(root: Path, path: str, image: str, file_name: str, number: int = 1) -> None:
    """Write a file in Roboflow's form: the first category is the project."""
    categories = [{"id": 0, "name": "project", "supercategory": "none"}]
    categories += [{"id": number, "name": "x", "supercategory": "project"}]
    box = [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]
    entry = {"id": 0, "image_id": 0, "category_id": number, "bbox": box, "iscrowd": 0, "segmentation": []}
    images = [{"id": 0, "file_name": file_name, "height": 40, "width": 60}]
    write(root / path, json.dumps({"images": images, "annotations": [entry], "categories": categories}))
    save_image(root / image, 40, 60)


def save_labelme(root: Path, path: str, image: str, image_path: str, shapes: list[dict[str, Any]] = SHAPES) -> None:
    noted = {"imagePath": image_path, "imageData": None, "imageHeight": 40, "imageWidth": 60}
    write(root / path, json.dumps({"version": "5.4.1", "flags": {}, "shapes": shapes, **noted}))
    save_image(root / image, 40, 60)


def save_cvat(root: Path, path: str, images: list[str], subset: str = "", shapes: str = CVAT_BOX) -> None:
    nodes = [XML.format(id=i, name=Path(n).name, subset=subset, shapes=shapes) for i, n in enumerate(images)]
    labels = "<labels><label><name>x</name></label><label><name>y</name></label></labels>"
    task = f"<version>1.1</version><meta><task>{labels}</task></meta>"
    write(root / path, f'<?xml version="1.0"?>\n<annotations>{task}{"".join(nodes)}</annotations>')
    for image in images:
        save_image(root / image, 40, 60)


def voc_lower(root: Path) -> None:
    save_voc(root, "annotations/a.xml", "images/a.png")


def voc_lower_splits(root: Path) -> None:
    for split in ("train", "val"):
        save_voc(root, f"annotations/{split}/{split}.xml", f"images/{split}/{split}.png")


def voc_below_splits(root: Path) -> None:
    for split in ("Train", "valid"):
        save_voc(root, f"{split}/annotations/a.xml", f"{split}/images/a.png")


def voc_pets(root: Path) -> None:
    save_voc(root, "annotations/xmls/a.xml", "images/a.jpg", "a.jpg")
    save_voc(root, "annotations/xmls/b.xml", "images/b.jpg")


def voc_beside(root: Path) -> None:
    save_voc(root, "images/deep/a.xml", "images/deep/a.png")


def coco_roboflow(root: Path) -> None:
    for split in ("train", "valid", "test"):
        save_coco(root, f"{split}/_annotations.coco.json", f"{split}/{split}_png.rf.1a.png", f"{split}_png.rf.1a.png")


def coco_cvat(root: Path) -> None:
    save_coco(root, "annotations/instances_default.json", "images/default/a.png", "a.png")


def coco_cvat_splits(root: Path) -> None:
    for split in ("Train", "Validation"):
        save_coco(root, f"annotations/instances_{split}.json", f"images/{split}/{split}.png", f"{split}.png")


def coco_label_studio(root: Path) -> None:
    save_coco(root, "result.json", "images/0b1-a.png", "images\\0b1-a.png")


def coco_label_studio_paths(root: Path) -> None:
    save_coco(root, "result.json", "images/0b1-a.png", "../../label-studio/media/upload/1/0b1-a.png")


def coco_beside_other_json(root: Path) -> None:
    save_coco(root, "result.json", "images/a.png", "images/a.png")
    write(root / "notes.json", '{"categories": [{"id": 0, "name": "x"}], "info": {"year": 2024}}')


def labelme_beside(root: Path) -> None:
    save_labelme(root, "a.json", "a.png", "a.png")


def labelme_splits(root: Path) -> None:
    for split in ("train", "Val"):
        save_labelme(root, f"{split}/{split}.json", f"{split}/{split}.JPG", f"C:\\photos\\{split}.JPG")


def labelme_apart(root: Path) -> None:
    save_labelme(root, "annotations/train/a.json", "images/train/a.png", "../../images/train/a.png")
    save_labelme(root, "annotations/val/b.json", "images/val/b.png", "b.png")


def labelme_renamed(root: Path) -> None:
    save_labelme(root, "images/new.json", "images/new.png", "old.png")


def cvat_images(root: Path) -> None:
    save_cvat(root, "annotations.xml", ["images/a.png", "images/b.png"])


def cvat_subsets(root: Path) -> None:
    for split in ("Train", "Validation"):
        save_cvat(root, f"{split}/annotations.xml", [f"{split}/images/{split}.png"])


LAYOUTS = {
    voc_lower: ("voc", {"all": 1}),
    voc_lower_splits: ("voc", {"train": 1, "val": 1}),
    voc_below_splits: ("voc", {"train": 1, "val": 1}),
    voc_pets: ("voc", {"all": 2}),
    voc_beside: ("voc", {"all": 1}),
    coco_roboflow: ("coco", {"train": 1, "val": 1, "test": 1}),
    coco_cvat: ("coco", {"all": 1}),
    coco_cvat_splits: ("coco", {"train": 1, "val": 1}),
    coco_label_studio: ("coco", {"all": 1}),
    coco_label_studio_paths: ("coco", {"all": 1}),
    coco_beside_other_json: ("coco", {"all": 1}),
    labelme_beside: ("labelme", {"all": 1}),
    labelme_splits: ("labelme", {"train": 1, "val": 1}),
    labelme_apart: ("labelme", {"train": 1, "val": 1}),
    labelme_renamed: ("labelme", {"all": 1}),
    cvat_images: ("cvat", {"all": 2}),
    cvat_subsets: ("cvat", {"train": 1, "val": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: save.__name__)
def test_tool_layouts(tmp_path: Path, save: Any, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path)
    format, counts = LAYOUTS[save]
    assert find_format(tmp_path) == format
    sets = read(tmp_path)
    assert {split: len(part.images) for split, part in sets.items()} == counts
    for part in sets.values():
        assert part.categories == (["x", "y"] if format == "cvat" else ["x"])
        assert [(o.category, *o.box) for image in part.images for o in image.objects] == [(0, *BOX)] * len(part.images)
    assert "several" not in caplog.text


def test_cvat_subsets_in_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = []
    for split in ("Train", "Test", "default"):
        save_cvat(tmp_path, f"{split}.xml", [f"images/{split}/{split}.png"], split)
        parts.append((tmp_path / f"{split}.xml").read_text().partition("<image")[2].removesuffix("</annotations>"))
        (tmp_path / f"{split}.xml").unlink()
    write(tmp_path / "annotations.xml", f"<annotations><image{'<image'.join(parts)}</annotations>")
    assert {split: [image.name for image in part.images] for split, part in read(tmp_path).items()} == {
        "train": ["Train.png"],
        "test": ["Test.png"],
    }
    assert "1 images are skipped: their subset is none of train, val and test" in caplog.text


def disk(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    rows, columns = np.mgrid[:40, :60] + 0.5
    return ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PART = np.array([[True, False, True], [True, True, False]])


def test_labelme_shapes(tmp_path: Path) -> None:
    square = [[1, 1], [5, 1], [5, 5], [1, 5]]
    shapes = [
        {"label": "b", "shape_type": "polygon", "points": square, "group_id": 4},
        {"label": "a", "shape_type": "circle", "points": [[30, 20], [30, 28]]},
        {"label": "b", "points": [[11, 11], [15, 11], [15, 15]], "group_id": 4},
        {"label": "a", "shape_type": "mask", "points": [[50, 30], [52, 31]], "mask": png(PART)},
        {
            "label": "b",
            "shape_type": "rectangle",
            "points": [[7, 9], [3, 2]],
            "group_id": None,
            "flags": {"torn": True},
        },
        {"label": "a", "shape_type": "circle", "points": [[0, 0], [10, 0]]},
    ]
    save_labelme(tmp_path, "a.json", "a.png", "a.png", shapes)
    part = read(tmp_path)["all"]
    assert part.categories == ["a", "b"]
    merged, circle, mask, box, corner = part.images[0].objects
    assert (merged.box, len(merged.segmentation or []), merged.category) == ((1, 1, 15, 15), 2, 1)
    assert circle.box == (22, 12, 38, 28)
    expected = np.zeros((40, 60), bool)
    expected[30:32, 50:53] = PART
    assert np.array_equal(decode_rle(mask.segmentation), expected)  # type: ignore[arg-type]
    assert mask.box == (50, 30, 53, 32)
    assert (box.box, box.segmentation, box.attributes) == ((3, 2, 7, 9), None, {"flags": {"torn": True}})
    assert corner.box == (0, 0, 10, 10)  # clipped at the edges
    data = AnnotatedImagesDataModule(str(tmp_path), num_workers=0, image_size=None, test_fraction=0)
    data.setup()
    drawn = data.train_dataset.__getitems__([0])["mask"][0, :40, :60].numpy()
    assert (drawn[15:26, 25:36] == disk(30, 20, 8, 8)[15:26, 25:36]).all()
    assert (drawn[2:9, 3:7] == 255).sum() > 10  # the pixels of an object with only a box are unknown


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"shape_type": "line", "points": [[1, 1], [2, 2]]}, "its shape 'line' has no area"),
        ({"shape_type": "polygon", "points": [[1, 1], [2, 2]]}, "its polygon has 2 points: at least 3 finite points"),
        ({"shape_type": "rectangle", "points": [[1, 1]]}, "its rectangle has 1 points: at least 2 finite points"),
        ({"shape_type": "rectangle", "points": [[1, 1], [100, 20]]}, "is not inside the image of 60 x 40"),
        ({"shape_type": "rectangle", "points": [[1, 1], [1, "?"]]}, "its points are invalid"),
        ({"shape_type": "rectangle", "points": None}, "its points are invalid|its rectangle has"),
        ({"shape_type": "mask", "points": [[1, 1], [3, 2]], "mask": "?"}, "its mask cannot be read"),
        ({"shape_type": "mask", "points": [[1, 1], [9, 2]], "mask": png(PART)}, "its mask has 3 x 2 pixels"),
        ({"shape_type": "mask", "points": [[59, 1], [61, 2]], "mask": png(PART)}, "its mask is not inside the image"),
        ({"label": "y", "points": [[1, 1], [2, 2], [1, 2]]}, "unknown category 'y'"),
        ({"label": None, "points": []}, "unknown category ''"),
    ],
)
def test_invalid_labelme_shapes(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    save_labelme(tmp_path, "a.json", "a.png", "a.png", [{"label": "x"} | shape, *SHAPES])
    write(tmp_path / "labels.txt", "__ignore__\n_background_\nx\n")
    with pytest.raises(AnnotationError, match=f"(?s)a.json, shape 1: .*({message})"):
        read(tmp_path)
    problems = Problems()
    assert len(read_annotations(tmp_path, problems)["all"].images[0].objects) == 1
    assert len(problems) == 1


def test_invalid_labelme_files(tmp_path: Path) -> None:
    save_labelme(tmp_path, "a.json", "a.png", "a.png", [*SHAPES, 3])  # type: ignore[list-item]
    write(tmp_path / "b.json", "{")
    write(tmp_path / "c.json", '{"shapes": 3}')  # another kind of JSON
    save_labelme(tmp_path, "d.json", "x.png", "d.png")
    problems = Problems()
    assert len(read_annotations(tmp_path, problems)["all"].images) == 1
    assert len(problems) == 3
    for text in (
        "a.json, shape 2: is not an object",
        "b.json: is not valid JSON",
        "image 'd.png': there is no such file",
    ):
        assert text in str(problems)


def test_cvat_shapes(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="y" points="1.5,1;5,1;5,5" occluded="1"><attribute name="color">red</attribute></polygon>'
        '<ellipse label="x" cx="30" cy="20" rx="8" ry="6"></ellipse>'
        '<box label="x" xtl="20" ytl="10" xbr="24" ybr="12" rotation="90"></box>'
        '<mask label="y" rle="0,1,1,3,1" left="50" top="30" width="3" height="2"></mask>'
    )
    save_cvat(tmp_path, "annotations.xml", ["images/a.png"], shapes=shapes)
    polygon, ellipse, turned, mask = read(tmp_path)["all"].images[0].objects
    assert (polygon.category, polygon.box, polygon.segmentation) == (1, (1.5, 1, 5, 5), [[1.5, 1, 5, 1, 5, 5]])
    assert polygon.attributes == {"occluded": "1", "attributes": {"color": "red"}}
    assert ellipse.box == (22, 14, 38, 26)
    assert turned.box == pytest.approx((21, 9, 23, 13))
    assert mask.box == (50, 30, 53, 32)
    assert np.array_equal(decode_rle(mask.segmentation)[30:32, 50:53], PART)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polyline label="x" points="1,1;2,2"/>', "its shape 'polyline' has no area"),
        ('<box label="x" xtl="1" ytl="1" xbr="9"/>', "its box cannot be read: ybr is missing"),
        ('<box label="z" xtl="1" ytl="1" xbr="9" ybr="9"/>', "unknown category 'z'"),
        ('<polygon label="x" points="1,1;2;3,3"/>', "its points must have the form x,y"),
        ('<mask label="x" rle="0,7" left="0" top="0" width="3" height="2"/>', "its runs do not fill 3 x 2 pixels"),
        (
            f'<mask label="x" rle="{"4611686018427387904," * 4}6" left="0" top="0" width="3" height="2"/>',
            "its runs do not",
        ),
        ('<mask label="x" rle="0,6" left="58" top="0" width="3" height="2"/>', "its mask is not inside the image"),
        ('<mask label="x" rle="" left="0" top="0" width="3" height="2"/>', "its mask cannot be read"),
        ('<star label="x"/>', "its shape 'star' is unknown"),
    ],
)
def test_invalid_cvat_shapes(tmp_path: Path, shape: str, message: str) -> None:
    save_cvat(tmp_path, "annotations.xml", ["images/a.png"], shapes=shape + CVAT_BOX)
    with pytest.raises(AnnotationError, match=f"annotations.xml, image 'a.png', shape 1: {message}"):
        read(tmp_path)
    assert len(read_annotations(tmp_path, Problems())["all"].images[0].objects) == 1


def test_invalid_cvat_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_cvat(tmp_path, "annotations.xml", ["images/a.png"], shapes='<tag label="x"/>')
    assert read(tmp_path)["all"].images[0].objects == []
    assert "1 images have tags, which are skipped" in caplog.text
    write(tmp_path / "annotations.xml", '<annotations><track id="0" label="x"/></annotations>')
    with pytest.raises(AnnotationError, match="contains video tracks: export it as 'CVAT for images"):
        read(tmp_path)
    entities = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 50 if k else "ha" * 50}">' for k in range(9))
    write(tmp_path / "annotations.xml", f"<!DOCTYPE x [{entities}]><annotations>&a8;</annotations>")
    with pytest.raises(AnnotationError, match=r"annotations\.xml: is not valid XML"):
        read(tmp_path)
    write(tmp_path / "annotations.xml", "<annotations/>")
    with pytest.raises(FileNotFoundError, match="contains no CVAT XML files with images"):
        read(tmp_path)


def test_format_is_added_as_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new format needs only a file in the package that defines `FORMAT`."""
    code = (
        "from lit_cv.annotations.annotation_format import AnnotationFormat, Sign\n"
        "from lit_cv.annotations.records import AnnotatedImage, AnnotationSet\n"
        "FORMAT = AnnotationFormat('mine', lambda root: Sign.SURE if (root / 'mine.txt').is_file() else Sign.NONE,\n"
        "    lambda source: {'all': AnnotationSet(source.root, ['x'], [AnnotatedImage('a.png', 0, 0)])})\n"
    )
    write(tmp_path / "package" / "mine.py", code)
    save_image(tmp_path / "a.png", 40, 60)
    write(tmp_path / "mine.txt", "")
    package = __import__("lit_cv.annotations", fromlist=["x"])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "package")])
    registry.annotation_formats.cache_clear()
    try:
        assert "mine" in annotation_formats()
        assert find_format(tmp_path) == "mine"
        assert [image.name for image in read(tmp_path)["all"].images] == ["a.png"]
    finally:
        registry.annotation_formats.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("save", [voc_lower_splits, coco_roboflow, labelme_apart, cvat_subsets])
def test_tool_exports_train_and_convert(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "set")
    before = content(read(tmp_path / "set"))
    main(["convert", "--root", "set", "--out", "out", "--to", "yolo"])
    after = content(read(tmp_path / "out"))
    assert {split: [entry[1:] for entry in part] for split, part in after.items()} == {
        split: [entry[1:] for entry in part] for split, part in before.items()
    }
    data = ["--data", "AnnotatedImagesDataModule", "--data.root", "set", "--data.image_size", "32"]
    size = ["--data.num_workers", "0", "--data.batch_size", "1", "--trainer.fast_dev_run", "true"]
    cli = main(["fit", "--model", "DetectionModule", "--model.backbone", "resnet9_small", *data, *size])
    assert cli is not None
    assert cli.trainer.global_step == 1
