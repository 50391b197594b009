from pathlib import Path

import pytest

from datamodules import CSVDataModule
from lit_cv.annotations import AnnotationError, Problems, convert, encode_rle, read_annotations
from lit_cv.cli import main
from tests.annotations.sets import content, example, save_coco, save_image


@pytest.mark.slow
def test_bccd_through_all_formats(data_root: Path, tmp_path: Path) -> None:
    source = read_annotations(data_root / "BCCD", Problems())
    convert(str(data_root / "BCCD"), str(tmp_path / "yolo"), "yolo", place="link")
    convert(str(tmp_path / "yolo"), str(tmp_path / "coco"), "coco", place="link")
    convert(str(tmp_path / "coco"), str(tmp_path / "voc"), "voc", place="link")
    again = read_annotations(tmp_path / "voc", Problems())
    assert content(again) == content(source)
    assert sum(len(image.objects) for part in again.values() for image in part.images) == 4888
    old = data_root / "BCCD" / "Annotations" / "BloodImage_00007.xml"
    new = tmp_path / "voc" / "Annotations" / "BloodImage_00007.xml"
    for tag in ("xmin", "ymin", "xmax", "ymax", "name"):
        lines = [[line.strip() for line in path.read_text().splitlines() if f"<{tag}>" in line] for path in (old, new)]
        assert lines[0] == lines[1]


def test_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = example(tmp_path / "source")
    from lit_cv.annotations import write_coco

    write_coco(sets, tmp_path / "source")
    main(["convert", "--root", str(tmp_path / "source"), "--to", "voc", "--out", str(tmp_path / "voc")])
    assert "10 images with 20 objects: wrote 13 annotation files" in capsys.readouterr().err
    assert content(read_annotations(tmp_path / "voc", Problems())) == content(sets)
    with pytest.raises(ValueError, match=r"is not empty: .*`out`"):
        convert(str(tmp_path / "source"), str(tmp_path / "voc"), "voc")
    with pytest.raises(SystemExit, match=r"lit-cv: error: .*vok"):
        main(["convert", "--root", "x", "--to", "vok", "--out", "y"])


def test_unsupported_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_coco(tmp_path / "coco" / "instances.json", [])
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / "coco" / f"{name}.png", *side)
    with pytest.raises(ValueError, match="class masks need outlines or masks, but there are only boxes"):
        convert(str(tmp_path / "coco"), str(tmp_path / "out"), "masks")
    import numpy as np

    crowd = {
        "id": 1,
        "image_id": 5,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": encode_rle(np.ones((30, 30), bool)),
    }
    save_coco(tmp_path / "coco" / "instances.json", [crowd, crowd | {"id": 2, "iscrowd": 0}])
    convert(str(tmp_path / "coco"), str(tmp_path / "voc"), "voc")
    assert "voc cannot store 2 outlines and 1 crowds" in caplog.text
    found = read_annotations(tmp_path / "voc", Problems())["all"]
    assert [len(image.objects) for image in found.images] == [0, 1]
    convert(str(tmp_path / "coco"), str(tmp_path / "masks"), "masks", place="link")
    found = read_annotations(tmp_path / "masks", Problems())["all"]
    assert found.mask_classes == ["background", "person", "dog"]
    with pytest.raises(ValueError, match="there are only class masks"):
        convert(str(tmp_path / "masks"), str(tmp_path / "out"), "yolo")
    save_coco(tmp_path / "coco" / "instances.json", [crowd, crowd])
    with pytest.raises(AnnotationError, match=r"`on_error='skip'`"):
        convert(str(tmp_path / "coco"), str(tmp_path / "out"), "coco")
    assert (
        len(convert(str(tmp_path / "coco"), str(tmp_path / "out"), "coco", on_error="skip")["all"].images[1].objects)
        == 1
    )


def test_images_sharing_a_file(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.jpg"}]
    save_coco(tmp_path / "instances.json", [], images=images)
    save_image(tmp_path / "a.png", 20, 20)
    save_image(tmp_path / "a.jpg", 20, 20)
    with pytest.raises(ValueError, match=r"would share a file: yolo names files by image"):
        convert(str(tmp_path), str(tmp_path / "out"), "yolo")


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def test_class_folders_and_tables(tmp_path: Path) -> None:
    for split, label, name in (
        ("train", "cat", "a"),
        ("train", "dog", "b"),
        ("valid", "cat", "c"),
        ("test", "dog", "d"),
    ):
        save_image(tmp_path / "folders" / split / label / f"{name}.png", 12, 12)
    convert(str(tmp_path / "folders"), str(tmp_path / "table"), "csv")
    lines = (tmp_path / "table/images.csv").read_text().splitlines()
    assert lines[0] == "path,label,split"
    assert lines[1:] == [
        "images/train/cat/a.png,cat,train",
        "images/train/dog/b.png,dog,train",
        "images/val/cat/c.png,cat,val",
        "images/test/dog/d.png,dog,test",
    ]
    data = CSVDataModule(str(tmp_path / "table/images.csv"), image_size=8)
    data.setup()
    assert data.class_names == ["cat", "dog"]
    assert data.train_dataset.labels.tolist() == [0, 1]
    convert(str(tmp_path / "table"), str(tmp_path / "again"), "folders")
    assert tree(tmp_path / "again") == ["test/dog/d.png", "train/cat/a.png", "train/dog/b.png", "val/cat/c.png"]
    assert (tmp_path / "again/train/cat/a.png").read_bytes() == (tmp_path / "folders/train/cat/a.png").read_bytes()
    with pytest.raises(ValueError, match="coco cannot store image-level classes"):
        convert(str(tmp_path / "folders"), str(tmp_path / "out"), "coco")


def test_invalid_class_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "a.png", 9, 9)
    save_image(tmp_path / "b.png", 9, 9)
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\na.png,x,train\na.png,x,train\nb.png,x,spare\nc.png,x,test\n")
    with pytest.raises(AnnotationError) as caught:
        convert(str(tmp_path), str(tmp_path / "out"), "folders")
    for text in (
        "line 3: a.png is listed twice",
        "line 4: unknown split 'spare'",
        "line 5: c.png: there is no such file",
    ):
        assert text in str(caught.value)
    table.write_text("path,label\na.png,x\nb.png,\n")
    convert(str(tmp_path), str(tmp_path / "out"), "folders")
    assert "1 images without a class are skipped" in caplog.text
    assert tree(tmp_path / "out") == ["x/a.png"]
    table.write_text("file,label\na.png,x\n")
    with pytest.raises(ValueError, match="must have the columns path and label"):
        convert(str(tmp_path), str(tmp_path / "out2"), "csv")


def test_warns_about_lost_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = {"image_id": 11, "category_id": 18, "bbox": [1, 1, 9, 9]}
    triangle = box | {"segmentation": [[1, 1, 10, 1, 10, 10]]}
    alone = triangle | {"image_id": 5, "id": 4}
    save_coco(tmp_path / "coco" / "instances.json", [box | {"id": 1}, box | {"id": 2}, triangle | {"id": 3}, alone])
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / "coco" / f"{name}.png", *side)
    convert(str(tmp_path / "coco"), str(tmp_path / "masks"), "masks")
    assert "masks cannot store 2 separate objects" in caplog.text
    assert " and 2 boxes without an outline" in caplog.text
    convert(str(tmp_path / "coco"), str(tmp_path / "yolo"), "yolo")
    assert "yolo cannot store 1 outlines (their boxes are kept)." in caplog.text
    found = read_annotations(tmp_path / "yolo", Problems())["all"]
    assert [sum(o.segmentation is not None for o in image.objects) for image in found.images] == [0, 1]


def test_images_in_another_folder(tmp_path: Path) -> None:
    save_coco(tmp_path / "coco" / "first.json", [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9]}])
    save_coco(tmp_path / "coco" / "second.json", [])
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / "photos" / f"{name}.png", *side)
    common = ["convert", "--root", str(tmp_path / "coco"), "--out", str(tmp_path / "voc"), "--to", "voc"]
    with pytest.raises(ValueError, match=r"choose one \(--annotations\)"):
        main(common)
    with pytest.raises(FileNotFoundError, match=r"set --images\.$"):
        main([*common, "--annotations", "first.json"])
    with pytest.raises(
        FileNotFoundError, match=r"folder .*copy not found: set --images \(to copy or link images, use --place copy\)"
    ):
        main([*common, "--annotations", "first.json", "--images", "copy"])
    main([*common, "--annotations", "first.json", "--images", str(tmp_path / "photos"), "--place", "none"])
    found = read_annotations(tmp_path / "voc", Problems(), folders={"all": tmp_path / "photos"})["all"]
    assert [len(image.objects) for image in found.images] == [0, 1]
    assert not (tmp_path / "voc" / "JPEGImages").exists()
    with pytest.raises(ValueError, match="--images cannot be used with yolo"):
        main([*common[:3], "--out", "x", "--to", "coco", "--source", "yolo", "--images", str(tmp_path / "photos")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--too", "voc"], "unknown option --too: did you mean '--to'?"),
        (["--root", "x", "--out", "y", "--to", "vok"], "--to vok: expected one of 'coco',.*mean 'voc'?"),
        (["--root", "x", "--to", "voc"], "convert needs --out."),
        (["x"], "unexpected argument 'x': options start with --."),
        (
            ["--imag", "x", "--root", "x", "--out", "y", "--to", "voc"],
            "unknown option --imag: did you mean '--images'?",
        ),
    ],
)
def test_option_errors_are_one_line(options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^lit-cv: error: {message} `lit-cv convert --help`".replace("?", r"\?")):
        main(["convert", *options])
