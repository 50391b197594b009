import pytest
import torch

from lit_cv.nn import DomainDiscriminator


def test_input_is_outer_product() -> None:
    discriminator = DomainDiscriminator(3, 2, hidden=4, conditional=True)
    f, p = torch.randn(5, 3, requires_grad=True), torch.rand(5, 2, requires_grad=True)
    expected = discriminator.layers(torch.einsum("nk,nd->nkd", p, f).reshape(5, 6))[:, 0]
    logits = discriminator(f, p)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert p.grad is None
    assert f.grad.abs().sum() > 0


def test_large_product_is_randomly_projected() -> None:
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(500, 10, hidden=8, conditional=True)
    assert discriminator.layers[0].in_features == 1024
    assert set(discriminator.state_dict()) >= {"feature_projection", "class_projection"}
    seen = []
    discriminator.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    f, p = torch.randn(2, 500), torch.tensor([[0.7, 0.2, 0.1] + [0.0] * 7] * 2)
    discriminator(f, p)
    kept = (seen[0][0] @ seen[0][0]) / (
        (f[0] @ f[0]) * (p[0] @ p[0])
    )  # the projection preserves inner products on average
    assert float(kept) == pytest.approx(1, abs=0.25)


def test_unconditional_ignores_probabilities() -> None:
    discriminator = DomainDiscriminator(3, 2, hidden=4)
    f = torch.randn(5, 3)
    assert torch.equal(discriminator(f, torch.rand(5, 2)), discriminator(f, torch.rand(5, 2)))
    with pytest.raises(ValueError, match="discriminator_hidden=0"):
        DomainDiscriminator(3, 2, hidden=0)
