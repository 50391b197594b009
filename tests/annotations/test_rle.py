import numpy as np
import pytest

from lit_cv.annotations import decode_rle, draw_polygons, encode_rle, outline_mask, rle
from lit_cv.annotations.rle import outline_area, outline_box, rle_counts


def random_masks() -> list[np.ndarray]:
    random = np.random.RandomState(0)
    blobs = [random.rand(h, w) < p for h, w, p in [(5, 7, 0.5), (1, 9, 0.5), (40, 30, 0.02), (64, 64, 0.9)]]
    big = np.zeros((300, 500), dtype=bool)
    big[20:280, 3:490] = True
    return [*blobs, big, np.zeros((4, 4), bool), np.ones((4, 4), bool)]


@pytest.mark.parametrize("mask", random_masks())
def test_rle_matches_coco(mask: np.ndarray) -> None:
    reference = pytest.importorskip("faster_coco_eval").mask
    code = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": code["counts"].decode()}
    assert np.array_equal(decode_rle(code), mask)
    assert outline_area(code) == reference.area(code)
    if mask.any():
        x, y, w, h = reference.toBbox(code)
        assert outline_box(code) == (x, y, x + w, y + h)


def test_uncompressed_rle() -> None:
    code = {"size": [3, 2], "counts": [1, 2, 2, 1]}
    assert decode_rle(code).astype(int).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert decode_rle(encode_rle(decode_rle(code))).tolist() == decode_rle(code).tolist()


ROUND = [1 << 62] * 4  # their sum is 0 in 64 bits


@pytest.mark.parametrize("counts", [[1, 2], [7, -1], [*ROUND, 6], "", "zzz", "~~"])
def test_invalid_rle(counts: object) -> None:
    for read in (rle_counts, decode_rle, outline_area, outline_box):
        with pytest.raises(ValueError, match=r"runs cover|not valid COCO RLE counts"):
            read({"size": [3, 2], "counts": counts})


def test_box_needs_no_decoded_mask() -> None:
    assert outline_box({"size": [65535, 65535], "counts": [0, 65535 * 65535]}) == (0, 0, 65535, 65535)
    assert outline_box({"size": [65535, 65535], "counts": [65535 * 65535]}) == (0, 0, 0, 0)


def random_polygons(random: np.random.RandomState, height: int, width: int) -> list[list[float]]:
    """Return random polygons, some of which self-intersect or exceed the image."""
    points = random.rand(random.randint(1, 4), random.randint(3, 12), 2) * (width + 6, height + 6) - 3
    points = points.round(random.randint(0, 3))
    return [polygon.reshape(-1).tolist() for polygon in points]


def test_polygons_match_coco() -> None:
    reference = pytest.importorskip("pycocotools.mask")
    random = np.random.RandomState(1)
    for _ in range(300):
        height, width = random.randint(1, 60, 2).tolist()
        polygons = random_polygons(random, height, width)
        theirs = decode_rle(reference.merge(reference.frPyObjects(polygons, height, width)))
        ours = draw_polygons(polygons, height, width)
        assert ours.dtype == np.bool_
        assert np.array_equal(ours, theirs), polygons


def test_polygon_pixels() -> None:
    # a ring by the even-odd rule, two parts in one, and parts outside the image
    square = draw_polygons([[1, 1, 4, 1, 4, 3, 1, 3], [5, 0, 9, 0, 9, 1, 5, 1]], 4, 6)
    assert square.astype(int).tolist() == [[0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6]
    assert not draw_polygons([[0, -5, 3, -5, 3, -1]], 3, 3).any()
    assert not draw_polygons([], 3, 3).any()


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid polygons must not reach the library, which does not check them."""
    for name in ("decode", "frPyObjects", "merge", "segmToRle"):
        monkeypatch.setattr(rle.coco, name, lambda *args: pytest.fail("the library was called"))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 1], "its polygon has 3 numbers"),
        ([0, 0, 1, 1], "its polygon has 4 numbers"),
        ([0, 0, 1, 1, 2, 0, 1], "its polygon has 7 numbers"),
        ([0, 0, 1, float("nan"), 2, 0], "not finite"),
        ([0, 0, 1, float("-inf"), 2, 0], "not finite"),
        ([0, 0, 1, -1e300, 2, 0], r"has a coordinate 1e\+300: at most 65536 is allowed"),
        ([0, 0, 1, 430_000_000, 2, 0], "at most 65536 is allowed"),  # times five this overflows an int
        ([0, 0, 60_000, 0] * 1000, "its polygon is 120000000 pixels long: at most 4194304 is allowed"),
    ],
)
def test_invalid_polygons(polygon: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_polygons([[0, 0, 1, 0, 1, 1], polygon], 3, 3)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3), (3, 1 << 16), (65535, 65535)])
def test_invalid_image_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="polygons cannot be drawn in an image of"):
        draw_polygons([[0, 0, 1, 0, 1, 1]], *size)


def test_resized_outlines() -> None:
    polygon = [[0.0, 0.0, 50.0, 0.0, 50.0, 20.0, 0.0, 20.0]]
    small = outline_mask(polygon, (40, 100), (10, 25))
    assert small.shape == (10, 25)
    assert small.sum() == 13 * 5  # 12.5 pixels wide, which COCO rounds up
    code = encode_rle(outline_mask(polygon, (40, 100)))
    assert abs(int(outline_mask(code, (40, 100), (10, 25)).sum()) - 62) <= 3
