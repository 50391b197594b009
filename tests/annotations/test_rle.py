import numpy as np
import pytest

from lit_cv.annotations import decode_rle, draw_polygons, encode_rle, outline_mask
from lit_cv.annotations.rle import outline_area, outline_box, rle_counts


def random_masks() -> list[np.ndarray]:
    random = np.random.RandomState(0)
    blobs = [random.rand(h, w) < p for h, w, p in [(5, 7, 0.5), (1, 9, 0.5), (40, 30, 0.02), (64, 64, 0.9)]]
    big = np.zeros((300, 500), dtype=bool)
    big[20:280, 3:490] = True
    return [*blobs, big, np.zeros((4, 4), bool), np.ones((4, 4), bool)]


@pytest.mark.parametrize("mask", random_masks())
def test_codes_are_cocos(mask: np.ndarray) -> None:
    reference = pytest.importorskip("faster_coco_eval").mask
    code = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": code["counts"].decode()}
    assert np.array_equal(decode_rle(code), mask)
    assert outline_area(code) == reference.area(code)
    if mask.any():
        x, y, w, h = reference.toBbox(code)
        assert outline_box(code) == (x, y, x + w, y + h)


def test_an_uncompressed_code() -> None:
    code = {"size": [3, 2], "counts": [1, 2, 2, 1]}
    assert decode_rle(code).astype(int).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert decode_rle(encode_rle(decode_rle(code))).tolist() == decode_rle(code).tolist()


ROUND = [1 << 62] * 4  # their sum is 0 in 64 bits


@pytest.mark.parametrize("counts", [[1, 2], [7, -1], [*ROUND, 6], "", "zzz", "~~"])
def test_codes_that_do_not_fit(counts: object) -> None:
    for read in (rle_counts, decode_rle, outline_area, outline_box):
        with pytest.raises(ValueError, match=r"runs cover|no run-length code"):
            read({"size": [3, 2], "counts": counts})


def test_polygons_against_coco() -> None:
    reference = pytest.importorskip("faster_coco_eval").mask
    random = np.random.RandomState(1)
    for _ in range(20):
        angles = np.sort(random.rand(9)) * 2 * np.pi
        radius = 15 + 25 * random.rand(9)
        points = np.stack([60 + radius * np.cos(angles), 50 + radius * np.sin(angles)], 1)
        polygon = points.reshape(-1).tolist()
        ours = draw_polygons([polygon], 100, 120)
        theirs = reference.decode(reference.merge(reference.frPyObjects([polygon], 100, 120))).astype(bool)
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.93  # theirs takes in pixels that the edge touches
        assert abs(ours.sum() - outline_area([polygon])) < 0.03 * ours.sum()


def test_polygons_exactly() -> None:
    # a ring by the even-odd rule, two parts in one, and parts outside the image
    square = draw_polygons([[1, 1, 4, 1, 4, 3, 1, 3], [5, 0, 9, 0, 9, 1, 5, 1]], 4, 6)
    assert square.astype(int).tolist() == [[0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6]
    assert draw_polygons([[0.4, 0, 0.6, 0, 0.6, 9, 0.4, 9]], 2, 2).astype(int).tolist() == [[1, 0], [1, 0]]
    assert not draw_polygons([[0, -5, 3, -5, 3, -1]], 3, 3).any()


def test_outlines_at_another_size() -> None:
    polygon = [[0.0, 0.0, 50.0, 0.0, 50.0, 20.0, 0.0, 20.0]]
    small = outline_mask(polygon, (40, 100), (10, 25))
    assert small.shape == (10, 25)
    assert small.sum() == 12 * 5  # 12.5 pixels wide, of which 12 have their center inside
    code = encode_rle(outline_mask(polygon, (40, 100)))
    assert abs(int(outline_mask(code, (40, 100), (10, 25)).sum()) - 62) <= 3
