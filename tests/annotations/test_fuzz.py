"""Randomly broken annotations are read, or refused with the file named, without other errors or hangs."""

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_cv.annotations import (
    AnnotationError,
    Problems,
    encode_rle,
    read_annotations,
    write_coco,
    write_voc,
    write_yolo,
)
from lit_cv.annotations.classes import read_class_table
from tests.annotations.sets import example, save_image

FEW = settings(
    max_examples=50, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(st.characters(exclude_characters="/."), max_size=5)  # "/" would be searched as a folder
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
    | st.sampled_from(["a.png", "../a.png", "\0", "\ud800", "x" * 300, 10**400, -1, 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=4,
)  # fmt: skip


def reads_or_says_which_file(read: Callable[[Problems], Any], *names: str) -> None:
    """Read a set: errors must be known ones that name a file, and results must be valid."""
    problems = Problems()
    try:
        sets = read(problems)
    except (ValueError, FileNotFoundError) as error:
        if not any(name in str(error) for name in names):
            raise AssertionError(f"no file is named: {type(error).__name__}: {error}") from error
        return
    for file, _, what in problems.entries:
        assert any(name in file for name in names), file
        assert what
    for part in sets.values():
        for image in part.images:
            for item in image.objects:
                left, top, right, bottom = item.box
                assert -1 <= left < right <= image.width + 1
                assert -1 <= top < bottom <= image.height + 1
                assert 0 <= item.category < len(part.categories)


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a nested structure."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def broken(data: bytes, cut: float, at: float, byte: int, length: int) -> bytes:
    """Return bytes with a few of them overwritten, or truncated."""
    position = int(at * len(data))
    data = data[:position] + bytes([byte]) * length + data[position + length :]
    return data[: int(cut * len(data))]


BROKEN = st.tuples(st.sampled_from([1.0, 1.0, 0.5, 0.9]), st.floats(0, 1), st.integers(0, 255), st.integers(0, 3))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("coco")
    (path,) = write_coco({"all": example(root / "images", ("train",))["train"]}, root)
    for image in (root / "images" / "train").rglob("*.png"):
        target = root / "images" / image.relative_to(root / "images" / "train")
        target.parent.mkdir(exist_ok=True)
        image.rename(target)
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].removeprefix("train/")
    by_id = {entry["id"]: entry for entry in content["images"]}
    for position, entry in enumerate(content["annotations"]):
        image = by_id[entry["image_id"]]
        if position % 3 == 0:
            mask = np.zeros((image["height"], image["width"]), bool)
            mask[2:9, 3:8] = True
            entry["segmentation"] = encode_rle(mask)
        elif position % 3 == 1:
            entry["segmentation"] = [[1, 1, 9, 1, 9, 9]]
            del entry["bbox"]
    return path, content


@given(data=st.data())
@settings(FEW, max_examples=150)
@pytest.mark.slow
def test_coco_with_replaced_value(coco: tuple[Path, dict[str, Any]], data: st.DataObject) -> None:
    path, content = coco
    place, value = data.draw(st.sampled_from(places(content))), data.draw(VALUES)
    path.write_text(json.dumps(replaced(content, place, value)))
    reads_or_says_which_file(lambda problems: read_annotations(path.parent.parent, problems, "coco"), path.name)


@given(how=BROKEN)
@FEW
def test_coco_with_broken_bytes(coco: tuple[Path, dict[str, Any]], how: Any) -> None:
    path, content = coco
    path.write_bytes(broken(json.dumps(content).encode(), *how))
    reads_or_says_which_file(lambda problems: read_annotations(path.parent.parent, problems, "coco"), path.name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "1" * 5000 + "}", "\ufeff"])
def test_json_exceeding_parser_limits(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.json is not valid JSON"):
        read_annotations(tmp_path, Problems())


def test_rle_larger_than_memory(tmp_path: Path) -> None:
    side = 10**7
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [side, side], "counts": [side * side]}}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [entry],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    save_image(tmp_path / "a.png", 9, 9)
    problems = Problems()
    read_annotations(tmp_path, problems)
    assert "annotation 1: " in str(problems)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    root = tmp_path_factory.mktemp("voc")
    sets = example(root / "JPEGImages", ("train",))
    for path in (root / "JPEGImages" / "train").iterdir():
        path.rename(root / "JPEGImages" / path.name)
    write_voc({"all": sets["train"]}, root)
    path = root / "Annotations" / "train_4.xml"
    return path, path.read_bytes()


@given(how=BROKEN)
@FEW
def test_voc_with_broken_bytes(voc: tuple[Path, bytes], how: Any) -> None:
    path, data = voc
    path.write_bytes(broken(data, *how))
    reads_or_says_which_file(lambda problems: read_annotations(path.parent.parent, problems, "voc"), "Annotations")


@given(
    tag=st.sampled_from(["width", "height", "xmin", "ymax", "name", "filename", "confidence"]),
    text=st.sampled_from(["", "nan", "inf", "-5", "1e400", "9" * 400, "x", "../..", "zebra"]) | st.text(max_size=4),
)
@FEW
@pytest.mark.slow
def test_voc_with_replaced_text(voc: tuple[Path, bytes], tag: str, text: str) -> None:
    path, data = voc
    start, middle, end = data.decode().partition(f"<{tag}>")
    rest = end.partition("<")[2]
    path.write_text(f"{start}{middle}{text}<{rest}", encoding="utf-8", errors="replace")
    reads_or_says_which_file(lambda problems: read_annotations(path.parent.parent, problems, "voc"), "Annotations")


@pytest.mark.parametrize("encoding", ["none-such", "utf-32", "hex"])
def test_xml_with_unknown_encoding(voc: tuple[Path, bytes], encoding: str) -> None:
    path, data = voc
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + data)
    problems = Problems()
    read_annotations(path.parent.parent, problems, "voc")
    assert "train_4.xml: is not valid XML" in str(problems)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yolo")
    write_yolo(example(root / "images", ("train",)), root)
    return root


@given(how=BROKEN)
@FEW
def test_yolo_with_broken_bytes(yolo: Path, how: Any) -> None:
    for path in (yolo / "data.yaml", yolo / "labels" / "train" / "train_4.txt"):
        data = path.read_bytes()
        path.write_bytes(broken(data, *how))
        try:
            reads_or_says_which_file(
                lambda problems: read_annotations(yolo, problems, "yolo"), "data.yaml", "labels", str(yolo)
            )
        finally:
            path.write_bytes(data)


@pytest.mark.slow
@given(
    line=st.lists(
        st.sampled_from(["0", "1", "0.5", "-1", "nan", "inf", "1e400", "x"]) | st.text(max_size=3), max_size=9
    )
)
@FEW
def test_yolo_with_any_line(yolo: Path, line: list[str]) -> None:
    path = yolo / "labels" / "train" / "train_1.txt"
    path.write_text(" ".join(line), encoding="utf-8", errors="replace")
    reads_or_says_which_file(lambda problems: read_annotations(yolo, problems, "yolo"), "train_1.txt")


@given(content=st.dictionaries(st.sampled_from(["names", "train", "val", "path", "nc"]), VALUES, max_size=4))
@FEW
def test_yolo_with_any_data_yaml(yolo: Path, content: Any) -> None:
    import yaml

    path = yolo / "data.yaml"
    data = path.read_bytes()
    path.write_text("# names:\n" + yaml.safe_dump({**yaml.safe_load(data), **content}), encoding="utf-8")
    try:
        reads_or_says_which_file(lambda problems: read_annotations(yolo, problems, "yolo"), "data.yaml", str(yolo))
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize(
    "text",
    [
        "names: &a [x, x]\nb: &b [*a, *a]\n" + "names: [" + "[" * 2000,
        "names: [2001-99-99]",
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(ascii_lowercase)) + "names: [*z]",
    ],
)  # fmt: skip
def test_yaml_exceeding_parser_limits(yolo: Path, text: str) -> None:
    path = yolo / "data.yaml"
    data = path.read_bytes()
    path.write_text(text)
    try:
        with pytest.raises(AnnotationError, match=r"data\.yaml"):
            read_annotations(yolo, Problems(), "yolo")
    finally:
        path.write_bytes(data)


def test_yolo_lists_without_common_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "set" / "a.png", 9, 9)
    save_image(tmp_path / "b.png", 9, 9)
    (tmp_path / "set" / "train.txt").write_text(f"a.png\n{tmp_path / 'b.png'}\n")
    (tmp_path / "set" / "data.yaml").write_text("names: [x]\ntrain: train.txt\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AnnotationError, match=r"no folder in common"):
        read_annotations(Path("set"), Problems(), "yolo")


@given(text=st.text(alphabet='ab,"\n\r\0\t01.pngé', max_size=60), how=BROKEN)
@FEW
def test_table_with_any_text(tmp_path: Path, text: str, how: Any) -> None:
    path = tmp_path / "images.csv"
    if not (tmp_path / "a.png").exists():
        save_image(tmp_path / "a.png", 9, 9)
    path.write_bytes(broken(f"path,label\na.png,x\n{text}".encode(), *how))
    reads_or_says_which_file(lambda problems: read_class_table(path, problems), "images.csv")
