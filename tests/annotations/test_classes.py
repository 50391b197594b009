"""Tables of images with one class each, to convert."""

from pathlib import Path

import pytest

from lit_cv.annotations import convert
from tests.annotations.sets import save_image


@pytest.mark.parametrize("column", ["split", "Split", " SPLIT"])
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_table_variants(tmp_path: Path, column: str, suffix: str) -> None:
    rows = "".join(f"{name}{suffix}, x,{'Train' if name < 'c' else 'test'}\n,,\n" for name in "abcd")
    for name in "abcd":
        save_image(tmp_path / "set" / f"{name}.png", 4, 6)
    (tmp_path / "set" / "images.csv").write_text(f"path,label ,{column}\n{rows}")
    sets = convert(str(tmp_path / "set"), str(tmp_path / "out"), "folders")
    assert {split: [image.name for image in part.images] for split, part in sets.items()} == {
        "train": ["a.png", "b.png"],
        "test": ["c.png", "d.png"],
    }


def test_warns_about_split_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "set" / "a.png", 4, 6)
    (tmp_path / "set" / "images.csv").write_text("path,label,part\na.png,x,train\n")
    convert(str(tmp_path / "set"), str(tmp_path / "out"), "folders")
    assert "its column part contains splits: rename it to split." in caplog.text
