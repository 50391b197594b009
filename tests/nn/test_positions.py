"""The fixed position table, and interpolation to another grid."""

import math

import pytest
import torch

from lit_cv.nn.positions import resize_positions, sincos_positions

# Rows 1, 6 and 15 of the authors' table for 16 channels and a grid of 4x4.
# fmt: off
REFERENCE = {
    1: (
        0.841470985, 0.0998334166, 0.00999983333, 0.000999999833, 0.540302306, 0.995004165, 0.99995, 0.9999995,
        0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0,
    ),
    6: (
        0.909297427, 0.198669331, 0.0199986667, 0.00199999867, -0.416146837, 0.980066578, 0.999800007, 0.999998,
        0.841470985, 0.0998334166, 0.00999983333, 0.000999999833, 0.540302306, 0.995004165, 0.99995, 0.9999995,
    ),
    15: (
        0.141120008, 0.295520207, 0.0299955002, 0.0029999955, -0.989992497, 0.955336489, 0.999550034, 0.9999955,
        0.141120008, 0.295520207, 0.0299955002, 0.0029999955, -0.989992497, 0.955336489, 0.999550034, 0.9999955,
    ),
}
# fmt: on


def test_sincos_table_equals_reference():
    table = sincos_positions((4, 4), 16)
    for row, values in REFERENCE.items():
        torch.testing.assert_close(table[row], torch.tensor(values), atol=1e-7, rtol=1e-6)


def test_sincos_table_of_rectangular_grid():
    table = sincos_positions((3, 5), 8)
    assert table.shape == (15, 8)
    for y in range(3):
        for x in range(5):
            half = [f(v / 10000 ** (i / 2)) for v in (x, y) for f in (math.sin, math.cos) for i in range(2)]
            torch.testing.assert_close(table[y * 5 + x], torch.tensor(half))


def test_width_must_be_multiple_of_4():
    with pytest.raises(ValueError, match=r"width=10: .* multiple of 4"):
        sincos_positions((2, 2), 10)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(("grid", "new"), [((4, 4), (6, 6)), ((7, 7), (3, 3)), ((4, 4), (3, 8))])
def test_interpolation_equals_timm(grid, new, others):
    positions = torch.randn(1, others + grid[0] * grid[1], 8)
    resized = resize_positions(positions, grid, new)
    expected = pytest.importorskip("timm.layers").resample_abs_pos_embed(
        positions, list(new), list(grid), num_prefix_tokens=others
    )
    torch.testing.assert_close(resized, expected)
    assert torch.equal(resized[:, :others], positions[:, :others])
    assert resize_positions(positions, grid, grid) is positions


def test_interpolation_from_rectangular_grid():
    positions = sincos_positions((4, 8), 64)[None]
    back = resize_positions(resize_positions(positions, (4, 8), (8, 16)), (8, 16), (4, 8))
    assert (back - positions).abs().mean() < 0.03
    assert resize_positions(positions, (4, 8), (8, 16)).shape == (1, 128, 64)
