import copy
import pickle

import pytest
import torch

from lit_cv.nn import LayerTaps, create_backbone


def test_outputs_equal_layer_outputs() -> None:
    body = create_backbone("conv4", in_channels=1).body
    taps = LayerTaps(body, ["blocks.1", "blocks.3"])
    images = torch.randn(2, 1, 16, 16)
    body(images)
    inner = body.blocks[1](body.blocks[0](images))
    torch.testing.assert_close(taps.outputs["blocks.1"], inner.mean((2, 3)))
    assert taps.outputs["blocks.3"].shape == (2, 64)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copy_has_independent_taps(twin: object) -> None:
    body = create_backbone("conv4", in_channels=1).body
    taps = LayerTaps(body, ["blocks.0"])
    body(torch.randn(2, 1, 16, 16))
    other, others = twin((body, taps))
    assert others.outputs == {}
    before = taps.outputs["blocks.0"]
    other(torch.randn(3, 1, 16, 16))
    assert others.outputs["blocks.0"].shape == (3, 64)
    assert taps.outputs["blocks.0"] is before


def test_error_suggests_nearest_layer() -> None:
    with pytest.raises(ValueError, match=r"layers='blocks.9': there is no such layer: did you mean 'blocks\.\d"):
        LayerTaps(create_backbone("conv4").body, ["blocks.9"])
