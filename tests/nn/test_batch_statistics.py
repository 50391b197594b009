import pytest
from torch import Tensor, nn

from lit_cv.nn.batch_statistics import batch_statistics


def test_subclass_with_activation_is_refused() -> None:
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with (
        pytest.raises(ValueError, match="WithActivation in the network is not a plain"),
        batch_statistics(WithActivation(2)),
    ):
        pass
