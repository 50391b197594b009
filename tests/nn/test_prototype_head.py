import pytest
import torch
import torch.nn.functional as F

from lit_cv.nn import PrototypeHead


def test_outputs_are_cosines() -> None:
    head = PrototypeHead(6, hidden=8, bottleneck=4, prototypes=10)
    features = torch.randn(3, 6)
    expected = F.cosine_similarity(head.layers(features)[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(head(features), expected)
    head.prototypes.data *= 5
    torch.testing.assert_close(head(features), expected)


def test_error_names_option() -> None:
    with pytest.raises(ValueError, match="prototypes=0"):
        PrototypeHead(6, prototypes=0)
