import pytest

from lit_cv.optim import scale_lr


def test_scaling_rules() -> None:
    assert scale_lr(0.3, 4096, "linear") == pytest.approx(
        4.8
    )  # SimCLR's published learning rate for a batch size of 4,096
    assert scale_lr(0.3, 4096, "sqrt") == pytest.approx(1.2)
    assert scale_lr(0.3, 4096, "none") == 0.3
    with pytest.raises(ValueError, match="'log': must be one of none, sqrt, linear"):
        scale_lr(0.1, 256, "log")  # type: ignore[arg-type]
