from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import AnnotatedImagesDataModule, annotated_dataset
from datamodules.annotated_dataset import letterbox_size
from lit_cv.annotations import AnnotationError, draw_classes, save_mask
from tests.annotations.sets import save_coco, save_image


def save_voc(root: Path, sizes: list[tuple[int, int]], boxes: list[list[tuple[str, int, int, int, int]]]) -> None:
    """Write images of (height, width) with pixel values that encode positions, and VOC boxes in file coordinates."""
    (root / "JPEGImages").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for index, ((height, width), objects) in enumerate(zip(sizes, boxes, strict=True)):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x, y, np.full_like(x, index)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{index}.png")
        nodes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for name, a, b, c, d in objects
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{index}.png</filename>{size}{nodes}</annotation>"
        (root / "Annotations" / f"{index}.xml").write_text(text)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    sizes = [(40, 80), (60, 30), (50, 50), (20, 20), (33, 65), (40, 40)]
    boxes = [[("dog", 1, 1, 80, 40), ("cat", 11, 21, 30, 40)], [("cat", 5, 5, 14, 24)], [], [("dog", 2, 2, 9, 9)]]
    save_voc(tmp_path / "voc", sizes, [*boxes, [("dog", 1, 1, 5, 5)], [("dog", 1, 1, 5, 5)]])
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n3\n")
    (lists / "val.txt").write_text("4\n")
    (lists / "test.txt").write_text("5\n")
    return tmp_path / "voc"


def module(root: Path, **kwargs: Any) -> AnnotatedImagesDataModule:
    data = AnnotatedImagesDataModule(str(root), **{"image_size": 40, "num_workers": 0, "batch_size": 4} | kwargs)
    data.prepare_data()
    data.setup()
    return data


def batch_of(data: AnnotatedImagesDataModule, rows: list[int]) -> dict[str, Any]:
    return data.train_dataset.__getitems__(rows)


@pytest.mark.parametrize("cache", [False, True])
def test_letterboxed_batches(voc: Path, cache: bool) -> None:
    data = module(voc, cache=cache)
    assert (data.box_classes, data.class_names, data.image_size) == (["cat", "dog"], [], (40, 40))
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [4, 1, 1]
    batch = batch_of(data, [1, 0, 2])
    assert batch["image"].shape == (3, 3, 40, 40)
    assert batch["image"].dtype == torch.uint8
    assert batch["size"].tolist() == [[40, 20], [20, 40], [40, 40]]
    assert batch["size"].dtype == torch.int64
    assert torch.allclose(batch["scale"], torch.tensor([[40 / 60, 20 / 30], [0.5, 0.5], [0.8, 0.8]]))
    assert batch["image"][0, :, :, 20:].max() == 0
    assert batch["image"][1, :, 20:].max() == 0
    assert batch["image"][0, 1, 39, 0] > 55  # the last row of the file
    # VOC counts pixels from 1 and includes the last one
    assert torch.allclose(batch["boxes"][0], torch.tensor([[4.0, 4, 14, 24]]) * 2 / 3)
    assert batch["boxes"][1].tolist() == [[0, 0, 40, 20], [5, 10, 15, 20]]
    assert batch["box_labels"][1].tolist() == [1, 0]
    assert batch["boxes"][2].shape == (0, 4)
    assert batch["box_labels"][2].shape == (0,)
    assert batch["boxes"][2].dtype == torch.float32
    assert batch["box_labels"][2].dtype == torch.int64
    assert batch["label"].tolist() == [-1, -1, -1]
    assert "iscrowd" not in batch
    assert "mask" not in batch
    assert data.train_dataset.sample_name(1) == "1.png"
    assert data.class_counts().tolist() == [2, 2]


@pytest.mark.parametrize("cache", [False, True])
def test_images_at_their_sizes(voc: Path, cache: bool) -> None:
    data = module(voc, image_size=None, cache=cache)
    batch = batch_of(data, [0, 1])
    assert data.image_size is None
    assert batch["image"].shape == (2, 3, 64, 96)
    assert batch["size"].tolist() == [[40, 80], [60, 30]]
    assert batch["scale"].tolist() == [[1, 1], [1, 1]]
    assert batch["image"][0, 0, 39, 79] == 79
    assert batch["image"][0, 0, 39, 80] == 0
    assert batch["boxes"][0][1].tolist() == [10, 20, 30, 40]


def test_resize_keeps_aspect_ratio_and_mean(voc: Path) -> None:
    assert letterbox_size((1000, 3), (64, 64)) == (64, 1)
    assert letterbox_size((20, 20), (64, 96)) == (64, 64)
    part = batch_of(module(voc), [0])["image"][0, :, :20, :40].float()
    assert abs(float(part[0].mean()) - 39.5) < 1
    assert abs(float(part[1].mean()) - 19.5) < 1


def test_invalid_entries_are_listed_or_skipped(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(name: str, old: str, new: str) -> None:
        path = voc / "Annotations" / name
        path.write_text(path.read_text().replace(old, new))

    edit("0.xml", "<xmax>30</xmax>", "<xmax>300</xmax>")
    edit("1.xml", "<ymax>24</ymax>", "<ymax>4</ymax>")
    edit("4.xml", "dog", "dgo")
    edit("3.xml", "<width>20</width>", "<width>21</width>")
    (voc / "JPEGImages" / "2.png").unlink()
    (voc / "ImageSets" / "Main" / "test.txt").write_text("5\n5\n7\n")
    with pytest.raises(AnnotationError, match=r"7 problems .*`on_error='skip'`") as caught:
        module(voc)
    for line in (
        r"0.xml, object 2: its box (10, 20, 300, 40) is not inside the image of 80 x 40 pixels",
        r"1.xml, object 1: its box (4, 4, 14, 4) has no area",
        r"2.xml, image '2.png': there is no such file",
        r"3.xml, image '3.png': the file has 20 x 20 pixels, but its annotation says 21 x 20",
        r"4.xml, object 1: unknown category 'dgo': did you mean 'dog'? Known: cat, dog",
        r"5.xml, image '5.png': is listed twice",
        r"7.xml: is in a list of images, but there is no such file",
    ):
        assert line in str(caught.value)
    data = module(voc, on_error="skip")
    assert len(data.problems) == 7
    assert [data.train_dataset.sample_name(i) for i in range(len(data.train_dataset))] == ["0.png", "1.png"]
    batch = batch_of(data, [0, 1])
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 0]
    (voc / "JPEGImages" / "1.png").write_bytes((voc / "JPEGImages" / "1.png").read_bytes()[:-30])
    data = module(voc, on_error="skip")
    assert "1.png: cannot be decoded" in str(data.problems)
    assert len(data.problems) == 8
    assert len(data.train_dataset) == 1


def test_classes_and_small_boxes(voc: Path) -> None:
    data = module(voc, classes=["dog"], min_box_side=9)
    assert data.box_classes == ["dog"]
    batch = batch_of(data, [0, 1, 3])
    assert [labels.tolist() for labels in batch["box_labels"]] == [[0], [], []]
    with pytest.raises(ValueError, match=r"unknown class 'dgo' .*did you mean 'dog'"):
        module(voc, classes=["dgo"])


def test_hidden_annotations(voc: Path) -> None:
    data = module(voc, label_fraction=0.5)
    assert (len(data.train_dataset), len(data.unlabeled_dataset)) == (2, 4)
    shown = {data.train_dataset.sample_name(i) for i in range(2)}
    batch = data.unlabeled_dataset.__getitems__([0, 1, 2, 3])
    for i, boxes in enumerate(batch["boxes"]):
        if data.unlabeled_dataset.sample_name(i) not in shown:
            assert len(boxes) == 0


def test_without_lists_and_beside_the_images(tmp_path: Path) -> None:
    save_voc(tmp_path / "a", [(20, 20)] * 10, [[("x", 1, 1, 5, 5)]] * 10)
    data = module(tmp_path / "a", test_fraction=0.2, val_fraction=0.25)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [6, 2, 2]
    flat = tmp_path / "b" / "train"
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "JPEGImages").rename(flat)
    for path in (tmp_path / "a" / "Annotations").iterdir():
        path.rename(flat / path.name)
    data = module(tmp_path / "b", val_fraction=0.1)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [9, 1, 0]
    assert batch_of(data, [0])["boxes"][0].tolist() == [[0, 0, 10, 10]]


def test_arguments_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .* not found: set `root`"):
        module(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no annotations in a known format"):
        module(tmp_path)
    with pytest.raises(ValueError, match=r"image_size=\[3\].*\[height, width\]"):
        module(tmp_path, image_size=[3])


@pytest.mark.slow
def test_bccd(data_root: Path) -> None:
    data = module(data_root / "BCCD", image_size=[240, 320])
    assert data.box_classes == ["Platelets", "RBC", "WBC"]
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [205, 87, 72]
    parts = (data.train_dataset, data.val_dataset, data.test_dataset)
    counts = sum(part.class_counts(3) for part in parts)  # type: ignore[union-attr]
    assert counts.tolist() == [361, 4155, 372]
    batch = data.val_dataset.__getitems__([0])  # type: ignore[union-attr]
    assert batch["boxes"][0][0].tolist() == [129.5, 88, 245.5, 188]
    assert batch["box_labels"][0][0] == 2


@pytest.mark.parametrize("cache", [False, True])
def test_coco_with_crowds_and_outlines(tmp_path: Path, cache: bool) -> None:
    code = {"size": [40, 60], "counts": [405, 15, 1980]}  # column 10, rows 5 to 19
    square = [[20, 10, 40, 10, 40, 30, 20, 30]]
    annotations = [
        {"id": 1, "image_id": 11, "category_id": 18, "bbox": [20, 10, 20, 20], "segmentation": square},
        {"id": 2, "image_id": 11, "category_id": 1, "bbox": [10, 5, 1, 15], "segmentation": code, "iscrowd": 1},
    ]
    save_coco(tmp_path / "annotations" / "instances_train2017.json", annotations)
    save_image(tmp_path / "train2017" / "a.png", 40, 60)
    save_image(tmp_path / "train2017" / "b.png", 30, 30)
    data = module(tmp_path, image_size=[80, 120], val_fraction=0, cache=cache)
    assert data.box_classes == ["person", "dog"]
    assert data.mask_classes == ["background", "person", "dog"]
    batch = batch_of(data, [0, 1])
    assert [crowd.tolist() for crowd in batch["iscrowd"]] == [[False, True], []]
    assert batch["mask"].dtype == torch.int64
    values, counts = batch["mask"][0].unique(return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 9600 - 1600 - 60, 1: 60, 2: 1600}
    assert (batch["mask"][0, 20:60, 40:80] == 2).all()
    assert (batch["mask"][1, :, :80] == 0).all()
    assert (batch["mask"][1, :, 80:] == 255).all()
    assert "mask" not in batch_of(module(tmp_path, targets="boxes", val_fraction=0), [0])
    assert "boxes" not in batch_of(module(tmp_path, targets="mask", val_fraction=0), [0])
    hidden = data.train_dataset.hide_labels(np.array([0])).__getitems__([0, 1])
    assert (hidden["mask"][1] == 255).all()
    assert (hidden["mask"][0] == batch["mask"][0]).all()


def test_cached_masks_depend_on_drawing_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triangle = {"id": 1, "image_id": 11, "category_id": 18, "bbox": [20, 10, 20, 20]}
    triangle["segmentation"] = [[20, 10, 40, 30, 20, 30]]
    save_coco(tmp_path / "annotations" / "instances_train2017.json", [triangle])
    save_image(tmp_path / "train2017" / "a.png", 40, 60)
    save_image(tmp_path / "train2017" / "b.png", 30, 30)
    drawn = []

    def draw(*args: Any) -> Any:
        drawn.append(args)
        return draw_classes(*args)

    monkeypatch.setattr(annotated_dataset, "draw_classes", draw)
    numbers = []
    for drawing in ("as today", "as today", "otherwise"):
        monkeypatch.setattr(annotated_dataset, "DRAWING", drawing)
        module(tmp_path, image_size=None, val_fraction=0, cache=True)
        numbers.append(len(drawn))
    assert numbers == [2, 2, 4]


@pytest.mark.parametrize("cache", [False, True])
def test_mask_files(tmp_path: Path, cache: bool) -> None:
    for index in range(10):
        save_image(tmp_path / "images" / f"{index}.png", 40, 60)
        mask = np.zeros((40, 60), dtype=int)
        mask[:, 30:] = index % 3
        mask[0] = 255
        save_mask(mask, tmp_path / "masks" / f"{index}.png")
    data = module(tmp_path, image_size=30, cache=cache)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [8, 1, 1]
    assert (data.box_classes, data.mask_classes) == ([], ["0", "1", "2"])
    batch = batch_of(data, [5])
    assert "boxes" not in batch
    number = int(data.train_dataset.sample_name(5)[0])
    assert batch["mask"].shape == (1, 30, 30)
    assert (batch["mask"][0, 1:20, 15:] == number % 3).all()
    assert (batch["mask"][0, 20:] == 255).all()
    assert batch["mask"][0, 1:20, :15].max() == 0
    data.train_dataset.in_memory = False  # like a dataset larger than the memory
    again = batch_of(data, [5])
    assert all(torch.equal(again[name], batch[name]) for name in ("image", "mask"))


def test_images_to_predict(voc: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "new" / "deep" / "x.png", 20, 10)
    data = module(voc, predict_root=str(tmp_path / "new"))
    (batch,) = list(data.predict_dataloader())
    assert set(batch) == {"image", "size", "scale", "label", "index"}
    assert data.predict_dataset.sample_name(0) == "deep/x.png"  # type: ignore[union-attr]
    assert batch["size"].tolist() == [[40, 20]]


def test_named_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_coco(tmp_path / "my" / "boxes.json", [])
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / "photos" / f"{name}.png", *side)
    data = module(tmp_path, annotations="my/boxes.json", images="photos", val_fraction=0, test_fraction=0)
    assert len(data.train_dataset) == 2
    monkeypatch.chdir(tmp_path)  # a folder outside the root is relative to the working directory
    data = module(tmp_path / "my", annotations="boxes.json", images="photos", val_fraction=0, test_fraction=0)
    assert len(data.train_dataset) == 2
    with pytest.raises(ValueError, match="2 of 2 images of val are also training images: a"):
        module(tmp_path, annotations={"train": "my/boxes.json", "val": "my/boxes.json"}, images="photos")
    other = (tmp_path / "my" / "boxes.json").read_text().replace("a.png", "c.png").replace("b.png", "d.png")
    (tmp_path / "my" / "others.json").write_text(other)
    for name, side in (("c", (40, 60)), ("d", (30, 30))):
        save_image(tmp_path / "photos" / f"{name}.png", *side)
    data = module(tmp_path, annotations={"train": "my/boxes.json", "val": "my/others.json"}, images="photos")
    assert len(data.val_dataset or []) == 2
    with pytest.raises(ValueError, match="'dev' is not a split"):
        module(tmp_path, annotations={"train": "my/boxes.json", "dev": "my/boxes.json"})


def test_image_level_classes(voc: Path) -> None:
    (voc / "labels.csv").write_text("path,label\n0.png,day\n1.png,night\n3.png,\n4.png,day\n")
    data = module(voc, labels="labels.csv")
    assert (data.num_classes, data.class_names, data.box_classes) == (2, ["day", "night"], ["cat", "dog"])
    assert batch_of(data, [0, 1, 2, 3])["label"].tolist() == [0, 1, -1, -1]
    assert data.val_dataset.labels.tolist() == [0]  # type: ignore[union-attr]
    assert data.class_counts().tolist() == [1, 1]
    (voc / "labels.csv").write_text("path,label\nx.png,day\n")
    with pytest.raises(AnnotationError, match=r"labels of 1 images without annotations, starting with 'x.png'"):
        module(voc, labels="labels.csv")
    (voc / "labels.csv").write_text("file,label\nx.png,day\n")
    with pytest.raises(ValueError, match="columns path and label"):
        module(voc, labels="labels.csv")


def test_workers_give_the_same_batches(voc: Path) -> None:
    alone, several = (list(module(voc, num_workers=n, batch_size=2).train_dataloader()) for n in (0, 2))
    assert len(alone) == len(several) == 2
    for a, b in zip(alone, several, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert all(torch.equal(x, y) for x, y in zip(a["boxes"], b["boxes"], strict=True))


@pytest.mark.parametrize("cache", [False, True])
def test_masks_of_0_and_255_are_two_classes(tmp_path: Path, cache: bool) -> None:
    for index in range(4):
        save_image(tmp_path / "images" / f"{index}.png", 40, 60)
        mask = np.zeros((40, 60), dtype=np.uint8)
        mask[:, 30:] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("ground\ncell\n")
    options: dict[str, Any] = {"image_size": [40, 60], "cache": cache, "val_fraction": 0, "test_fraction": 0}
    data = module(tmp_path, **options)
    assert data.mask_classes == ["ground", "cell"]
    mask = batch_of(data, [0])["mask"][0]
    assert (mask[:, :30] == 0).all()
    assert (mask[:, 30:] == 1).all()
    data = module(tmp_path, ignore_class="ground", **options)
    assert data.mask_classes == ["cell"]
    mask = batch_of(data, [0])["mask"][0]
    assert (mask[:, :30] == 255).all()
    assert (mask[:, 30:] == 0).all()
    data = module(tmp_path, ignore_class=[255], **options)
    assert (data.mask_classes, batch_of(data, [0])["mask"][0].unique().tolist()) == (["ground", "cell"], [0, 255])


@pytest.mark.parametrize("cache", [False, True])
def test_ignored_class_of_outlines(tmp_path: Path, cache: bool) -> None:
    outline = {"bbox": [0, 0, 20, 30], "segmentation": [[0, 0, 20, 0, 20, 30, 0, 30]]}
    save_coco(tmp_path / "train.json", [{"id": 1, "image_id": 5, "category_id": 1, **outline}])
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / f"{name}.png", *side)
    options: dict[str, Any] = {"image_size": 30, "cache": cache, "val_fraction": 0, "test_fraction": 0}
    data = module(tmp_path, ignore_class="person", **options)
    assert (data.box_classes, data.mask_classes) == (["person", "dog"], ["background", "dog"])
    batch = batch_of(data, [1])
    assert (batch["mask"][0, :, :20] == 255).all()
    assert (batch["mask"][0, :, 20:] == 0).all()
    assert batch["box_labels"][0].tolist() == [0]
    data = module(tmp_path, classes=["dog", "person"], ignore_class="background", **options)
    assert (data.mask_classes, batch_of(data, [1])["mask"][0].unique().tolist()) == (["dog", "person"], [1, 255])


def test_masks_of_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    square = {"bbox": [4, 6, 8, 8], "segmentation": [[4, 6, 12, 6, 12, 14, 4, 14]], "iscrowd": 0}
    code = {"size": [40, 60], "counts": [40 * 30, 10, 30, 10, 40 * 28 + 30]}
    bar = {"bbox": [30, 0, 2, 10], "segmentation": code, "iscrowd": 1}
    box = {"bbox": [20, 0, 5, 5], "segmentation": [], "iscrowd": 0}
    objects = [{"id": k, "image_id": 11, "category_id": 18} | item for k, item in enumerate((square, bar, box), 1)]
    save_coco(tmp_path / "annotations" / "instances_train.json", objects)
    save_image(tmp_path / "train" / "a.png", 40, 60)
    save_image(tmp_path / "train" / "b.png", 30, 30)
    data = module(tmp_path, targets="instances", image_size=[30, 30], val_fraction=0.0)
    assert "1 of 3 objects have no outline" in caplog.text
    batch = batch_of(data, [0])
    assert "mask" not in batch
    (masks,) = batch["masks"]
    assert masks.shape == (3, 30, 30)
    assert masks[0].nonzero().tolist() == [[y, x] for y in range(3, 7) for x in range(2, 6)]  # at half the size
    assert masks[1].nonzero().tolist() == [[y, 15] for y in range(5)]
    assert not masks[2].any()
    assert batch_of(data, [1])["masks"][0].shape == (0, 30, 30)
    save_coco(tmp_path / "annotations" / "instances_train.json", objects[2:])
    with pytest.raises(ValueError, match="no object has an outline: set `targets='boxes'`"):
        module(tmp_path, targets="instances")


def test_masks_of_objects_from_instance_masks(tmp_path: Path) -> None:
    for folder in ("images", "instances"):
        (tmp_path / folder).mkdir()
    values = np.zeros((10, 10), dtype=np.uint8)
    values[1:4, 1:4], values[4:9, 2:6] = 7, 9  # touching objects
    for k in range(4):
        save_image(tmp_path / "images" / f"{k}.png", 10, 10)
        Image.fromarray(values).save(tmp_path / "instances" / f"{k}.png")
    data = module(tmp_path, format="instances", targets="instances", image_size=None)
    batch = batch_of(data, [0, 1])
    assert batch["masks"][1].shape == (2, 32, 32)
    drawn = batch["masks"][0][:, :10, :10].numpy()
    assert np.array_equal(drawn, np.stack([values == 7, values == 9]))


def test_masks_of_objects_need_outlines(tmp_path: Path) -> None:
    for k in range(4):
        save_image(tmp_path / "images" / f"{k}.png", 10, 10)
        save_mask(np.ones((10, 10), dtype=np.uint8), tmp_path / "masks" / f"{k}.png")
    with pytest.raises(ValueError, match=r"classes of pixels, not objects \(`format='instances'`"):
        module(tmp_path, targets="instances")
