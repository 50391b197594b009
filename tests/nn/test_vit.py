"""Vision transformers: subsets of patches, sizes, pooling and attention."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import StochasticDepth

from lit_cv.nn import create_backbone, list_backbones
from lit_cv.nn.attention import attention
from lit_cv.nn.patches import patchify
from lit_cv.nn.stochastic_depth import set_stochastic_depth
from lit_cv.nn.transformer import Block
from lit_cv.nn.vit import VIT, VisionTransformer, VITSize, is_vit_name, vit_patch_size

TINY = VITSize(16, 3, 2)


def build(image_size=(8, 12), patch=4, channels=1, **options):
    torch.manual_seed(0)
    vit = VisionTransformer(image_size, patch, channels, TINY, **options)
    for parameter in vit.parameters():  # biases and norms, too
        torch.nn.init.normal_(parameter, std=0.2)
    return vit.eval()


@pytest.mark.parametrize("class_token", [False, True])
def test_encoding_is_permutation_equivariant(class_token):
    vit = build(class_token=class_token)
    images = torch.randn(3, 1, 8, 12)
    full = vit.forward_features(images)
    first = vit.num_prefix_tokens
    assert full.shape == (3, first + 6, 16)
    order = torch.stack([torch.randperm(6) for _ in range(3)])
    some = vit.forward_features(images, keep=order)
    torch.testing.assert_close(some[:, first:], full[:, first:].gather(1, order[:, :, None].expand(-1, -1, 16)))
    torch.testing.assert_close(some[:, :first], full[:, :first])


def test_hidden_patches_do_not_affect_output():
    vit = build()
    images = torch.randn(2, 1, 8, 12)
    keep = torch.tensor([[0, 4], [5, 1]])
    before = vit.forward_features(images, keep=keep)
    changed = images.clone()
    changed[0, :, :4, 4:] = 7.0  # patches 1 and 2
    changed[1, :, 4:, :8] = 7.0  # patches 3 and 4
    assert torch.equal(vit.forward_features(changed, keep=keep), before)
    changed[0, :, :4, :4] = 7.0
    assert not torch.equal(vit.forward_features(changed, keep=keep), before)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patch_embedding_equals_convolution(channels):
    vit = build(channels=channels)
    images = torch.randn(2, channels, 8, 12)
    projection = vit.patch_embed.proj
    expected = F.conv2d(images, projection.weight, projection.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.patch_embed(patchify(images, 4)), expected)


def test_positions_are_interpolated_for_other_sizes():
    vit = build(image_size=(16, 16))
    assert vit.forward_features(torch.randn(2, 1, 8, 24)).shape == (2, 1 + 12, 16)
    with pytest.raises(ValueError, match="images of 10x16 pixels cannot be cut into patches of 4x4"):
        vit.forward_features(torch.randn(2, 1, 10, 16))


def test_pooling():
    mean, token, none = (create_backbone(f"vit_micro_p4{end}", image_size=16).eval() for end in ("", "_cls", "_gap"))
    token.load_state_dict(mean.state_dict())
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        tokens = mean.body.forward_features(mean.normalize(images))
        torch.testing.assert_close(mean(images), tokens[:, 1:].mean(1))
        torch.testing.assert_close(token(images), tokens[:, 0])
        assert none(images).shape == (2, 128)
    assert none.body.cls_token is None
    assert none.body.pos_embed.shape == (1, 16, 128)


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((28, 28), 4), ((32, 32), 4), ((224, 224), 16), ((64, 64), 8), ((96, 128), 8), ((16, 16), 2), ((8, 8), 2),
        ((112, 224), 16), ((30, 30), 2), ((27, 27), 1), ((48, 32), 4),
    ],
)  # fmt: skip
def test_patch_size_depends_on_image_size(size, patch):
    assert vit_patch_size("vit_tiny", size) == patch
    assert vit_patch_size("vit_tiny_p5_gap", size) == 5


def test_vit_names():
    assert set(VIT) <= set(list_backbones())
    for name in ("vit_tiny", "vit_base_p16", "vit_small_p4_cls", "vit_micro_gap"):
        assert is_vit_name(name)
    for name in ("vit_b_16", "vit_enormous", "vit_tiny_p0", "vit_tiny_4", "vit_tiny_p4_max", "xvit_tiny"):
        assert not is_vit_name(name)
    with pytest.raises(ValueError, match=r"backbone='vit_tinny': there is no such backbone.*'vit_tiny'"):
        create_backbone("vit_tinny")
    with pytest.raises(ValueError, match="vit_tiny_p4 has no stem for small images"):
        create_backbone("vit_tiny_p4", image_size=32, stem="small")
    with pytest.raises(ValueError, match="images of 30x32 pixels cannot be cut into patches of 4x4"):
        create_backbone("vit_tiny_p4", image_size=(30, 32))


def test_block_of_last_tokens():
    block = build().blocks[0]
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(block(x, 3), block(x)[:, -3:])


def test_stochastic_depth_only_in_training():
    block = Block(16, 2)
    block.drop_path = StochasticDepth(0.5, "row")
    x = torch.randn(2000, 3, 16)
    torch.manual_seed(0)
    with torch.no_grad():
        full, dropped = block.eval()(x), block.train()(x)
    untouched = (dropped == x).all(2).all(1).float().mean()
    assert abs(float(untouched) - 0.25) < 0.04
    assert not torch.equal(full, dropped)
    vit = build()
    set_stochastic_depth(vit, 0.3)
    assert [round(b.drop_path.p, 3) for b in vit.blocks] == [0.0, 0.15, 0.3]
    with pytest.raises(ValueError, match=r"drop_path=1\.0"):
        set_stochastic_depth(vit, 1.0)
    assert create_backbone("vit_micro_p4", image_size=8, drop_path=0.2).body.blocks[-1].drop_path.p == 0.2
    with pytest.raises(ValueError, match="does not support stochastic depth: leave drop_path out"):
        create_backbone("conv4", drop_path=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [9, 4])
def test_attention_equals_formula(dtype, queries):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, n, 8, generator=generator).to(dtype).requires_grad_() for n in (queries, 9, 9)
    )
    weights = (query.double() @ key.double().transpose(2, 3) / 8**0.5).softmax(-1)
    expected = weights @ value.double()
    out = attention(query, key, value)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    wanted = torch.autograd.grad(expected.square().sum(), (query, key, value))
    found = torch.autograd.grad(out.double().square().sum(), (query, key, value))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=5 * tolerance, rtol=5 * tolerance)
    with torch.no_grad():
        torch.testing.assert_close(attention(query, key, value).double(), expected, atol=tolerance, rtol=tolerance)


def test_width_must_be_divisible_by_heads():
    with pytest.raises(ValueError, match="width of 10 is not divisible by 4 heads"):
        Block(10, 4)
