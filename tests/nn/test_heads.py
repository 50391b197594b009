"""Heads and dropout."""

import pytest
import torch

from lit_cv.nn import ClassificationHead, SpatialDropout


def test_head_is_linear_in_eval_with_dropout_in_training():
    head = ClassificationHead(16, 5, dropout=0.5).eval()
    features = torch.randn(64, 16)
    torch.testing.assert_close(head(features), features @ head.linear.weight.T + head.linear.bias)
    head.train()
    assert not torch.allclose(head(features), head.eval()(features))


@pytest.mark.parametrize("options", [(0, 3), (3, 0), (3, 3, 1.0), (3, 3, -0.1)])
def test_invalid_sizes_are_refused(options):
    with pytest.raises(ValueError, match=r"at least 1|in \[0, 1\)"):
        ClassificationHead(*options)


def test_spatial_dropout_keeps_mean_and_is_off_in_eval():
    torch.manual_seed(0)
    dropout, feature_map = SpatialDropout(0.25), torch.ones(64, 256, 2, 2)
    assert dropout(feature_map).mean() == pytest.approx(1, abs=0.03)
    assert dropout.eval()(feature_map) is feature_map
    assert SpatialDropout(0.0)(feature_map) is feature_map
