import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from lit_cv.figures import draw_objects, fonts, image_grid, objects, render

pytestmark = pytest.mark.draws


def save_font(path: Path, letters: str) -> None:
    """Write a font in which each of these characters is a filled square."""
    pen = TTGlyphPen(None)
    for x, y in ((0, 0), (0, 900), (900, 900), (900, 0)):
        (pen.lineTo if pen.points else pen.moveTo)((x, y))
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter)}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter)}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": f"Noto Sans {path.stem}", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a font with two characters that no other installed font has."""
    from matplotlib.font_manager import fontManager

    save_font(tmp_path / "Squares.ttf", "猫犬")
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(tmp_path / "Squares.ttf")])
    monkeypatch.setattr(fonts, "_reported", set())
    for function in (fonts._plain_fonts, objects._font):
        function.cache_clear()
    yield tmp_path
    for function in (fonts._plain_fonts, objects._font):
        function.cache_clear()


def dark(picture: np.ndarray) -> float:
    return float((picture.astype(float) < 100).all(-1).sum())


def test_missing_characters_use_another_font(only: Path, caplog: pytest.LogCaptureFixture) -> None:
    white = torch.ones(1, 3, 20, 20)
    latin, squares = (dark(render(image_grid(white, titles=[title]))) for title in ("ll", "猫犬"))
    assert squares > 5 * latin > 0
    assert not caplog.text
    place = (torch.zeros(1, 3, 384, 384), [torch.tensor([[9.0, 99, 300, 300]])], [torch.tensor([0])], None)
    boxed = [draw_objects(*place, [name]) for name in ("猫犬", "")]
    assert int((boxed[0] == 255).all(1).sum()) > 100 > int((boxed[1] == 255).all(1).sum())  # white squares on the label


def test_unavailable_characters_warn_once(
    only: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "_letters", lambda path: frozenset())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            render(image_grid(torch.ones(2, 3, 20, 20), titles=["猫", "猫 犬"], heading="猫"))
    assert "No installed font has the characters 犬猫" in caplog.text
    assert len({id(record) for record in caplog.records}) == 1  # pytest may capture a record twice
