"""Randomly broken files of Labelme and CVAT are read, or refused with the file named."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_cv.annotations import read_annotations
from tests.annotations.sets import save_image
from tests.annotations.test_fuzz import BROKEN, FEW, VALUES, broken, places, reads_or_says_which_file, replaced

CVAT = (
    '<annotations><meta><task><labels><label><name>x</name></label></labels></task></meta>'
    '<image id="0" name="a.png" width="60" height="40">'
    '<box label="x" xtl="2" ytl="3" xbr="12" ybr="9" rotation="10"><attribute name="c">red</attribute></box>'
    '<polygon label="x" points="1.5,1;5,1;5,5"/><ellipse label="x" cx="30" cy="20" rx="8" ry="6"/>'
    '<mask label="x" rle="0,1,1,3,1" left="50" top="30" width="3" height="2"/></image></annotations>'
)  # fmt: skip


@pytest.fixture(scope="module")
def labelme(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("labelme")
    save_image(root / "a.png", 40, 60)
    file = io.BytesIO()
    Image.new("L", (3, 2), 255).save(file, "PNG")
    shapes = [
        {"label": "x", "points": [[1, 1], [5, 1], [5, 5]], "group_id": 1, "shape_type": "polygon", "flags": {}},
        {"label": "x", "points": [[11, 11], [15, 11], [15, 15]], "group_id": 1},
        {"label": "y", "points": [[30, 20], [30, 28]], "shape_type": "circle", "score": 0.5},
        {"label": "y", "points": [[3, 2], [7, 9]], "shape_type": "rectangle"},
        {
            "label": "y",
            "points": [[50, 30], [52, 31]],
            "shape_type": "mask",
            "mask": base64.b64encode(file.getvalue()).decode(),
        },
    ]
    return root / "a.json", {"shapes": shapes, "imagePath": "a.png", "imageHeight": 40, "imageWidth": 60}


@pytest.mark.slow
@given(data=st.data())
@settings(FEW, max_examples=150)
def test_labelme_with_replaced_value(labelme: tuple[Path, dict[str, Any]], data: st.DataObject) -> None:
    path, content = labelme
    place, value = data.draw(st.sampled_from(places(content))), data.draw(VALUES)
    path.write_text(json.dumps(replaced(content, place, value)))
    reads_or_says_which_file(lambda problems: read_annotations(path.parent, problems, "labelme"), "labelme")


@given(how=BROKEN)
@FEW
def test_labelme_with_broken_bytes(labelme: tuple[Path, dict[str, Any]], how: Any) -> None:
    path, content = labelme
    path.write_bytes(broken(json.dumps(content).encode(), *how))
    reads_or_says_which_file(lambda problems: read_annotations(path.parent, problems, "labelme"), "labelme")


@pytest.fixture(scope="module")
def cvat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cvat")
    save_image(root / "images" / "a.png", 40, 60)
    return root / "annotations.xml"


@given(how=BROKEN)
@FEW
def test_cvat_with_broken_bytes(cvat: Path, how: Any) -> None:
    cvat.write_bytes(broken(CVAT.encode(), *how))
    reads_or_says_which_file(lambda problems: read_annotations(cvat.parent, problems, "cvat"), "cvat")


@given(
    name=st.sampled_from(["name", "width", "xtl", "rotation", "points", "cx", "rle", "left", "label", "ry"]),
    text=st.sampled_from(["", "nan", "inf", "-5", "1e400", "9" * 400, "x", "../..", "1,1", "0,99999999999"])
    | st.text(st.characters(codec="ascii", exclude_characters='<>&"'), max_size=4),
)
@settings(FEW, max_examples=100)
def test_cvat_with_replaced_value(cvat: Path, name: str, text: str) -> None:
    start, middle, rest = CVAT.partition(f' {name}="')
    cvat.write_text(start + middle + text + rest[rest.index('"') :])
    reads_or_says_which_file(lambda problems: read_annotations(cvat.parent, problems, "cvat"), "cvat")
