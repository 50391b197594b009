"""Files in the layouts of published networks, and files of other networks."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from lit_cv import FineTuneModule
from lit_cv.nn import checkpoint_options, create_backbone


def published(name, **options):
    """Return the state dict of a torchvision network with its ImageNet classifier and a distinct value per tensor."""
    with torch.device("meta"):
        state = models.get_model(name, weights=None, **options).state_dict()
    return {key: torch.full((), 1 + i / 1000, dtype=value.dtype).expand(value.shape)
            for i, (key, value) in enumerate(state.items())}  # fmt: skip


def assert_loaded(body, state, but=()):
    for key, value in body.state_dict().items():
        assert key in but or key.endswith("num_batches_tracked") or torch.equal(value, state[key]), key


def test_resnet50_in_torchvision_layout(tmp_path, caplog):
    state, path = published("resnet50"), str(tmp_path / "resnet50.safetensors")
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    with caplog.at_level("INFO", "lit_cv"):
        module = FineTuneModule(backbone="resnet50", weights=path, num_classes=7, strategy="feature_extraction")
        module.configure_model()
    assert "loaded 265 of 265 tensors of resnet50; missing (random): none; unexpected: fc." in caplog.text
    assert "(the classifier fc of 1000 classes is not used)" in caplog.text
    assert_loaded(module.backbone.body, state)
    assert module.head.classifier.linear.weight.shape == (7, 2048)


@pytest.mark.slow
def test_vit_b_16_at_another_image_size(tmp_path, caplog):
    state = published("vit_b_16")
    positions = torch.randn(1, 197, 768)
    torch.save({**state, "encoder.pos_embedding": positions}, tmp_path / "vit_b_16.pth")
    with caplog.at_level("INFO", "lit_cv"):
        backbone = create_backbone("vit_b_16", weights=str(tmp_path / "vit_b_16.pth"), image_size=112)
    assert "(the classifier heads.head of 1000 classes is not used)" in caplog.text
    assert "missing (random): none" in caplog.text
    assert_loaded(backbone.body, state, but=("encoder.pos_embedding",))
    own = backbone.body.encoder.pos_embedding
    assert own.shape == (1, 50, 768)
    assert torch.equal(own[:, 0], positions[:, 0])
    grid = positions[:, 1:].reshape(1, 14, 14, 768).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (7, 7), mode="bicubic", align_corners=True)
    torch.testing.assert_close(own[:, 1:], expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_are_removed(tmp_path, prefix):
    state = create_backbone("conv4").state_dict()
    torch.save({"model": {prefix + key: value for key, value in state.items()}}, tmp_path / "wrapped.pt")
    backbone = create_backbone("conv4", weights=str(tmp_path / "wrapped.pt"))
    assert_loaded(backbone.body, {key.removeprefix("body."): value for key, value in state.items()})


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        ("resnet34", "resnet18", "resnet18 has no layers for .* of its tensors.*another network"),
        ("resnet18", "resnet50", "has the shape"),
        pytest.param("densenet121", "densenet201", "has the shape|only .* tensors fit", marks=pytest.mark.slow),
        ("resnet50", "resnet18", "has the shape"),
        ("vgg11", "resnet18", "none of its 22 tensors belongs to resnet18; it holds features"),
        ("convnext_tiny", "efficientnet_b0", "another network|has the shape|belongs to"),
    ],
)
def test_weights_of_other_network_are_refused(tmp_path, held, wanted, words):
    path = tmp_path / "other.pth"
    torch.save(published(held), path)
    with pytest.raises(ValueError, match=words) as error:
        create_backbone(wanted, weights=str(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {"a": {"b": 1}}, "text", 3.5, {"state_dict": [1]}])
def test_pickles_without_state_dict_are_refused(tmp_path, content):
    for save, name in ((torch.save, "torch.pt"), (_pickle, "plain.pt")):
        save(content, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} (holds|cannot be read as weights)") as error:
            create_backbone("conv4", weights=str(tmp_path / name))
        assert "\n" not in str(error.value)


def _pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def test_truncated_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(100)}, path)
    for length in (4, 60, path.stat().st_size - 8):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="damaged or has another format"):
            create_backbone("conv4", weights=str(path))


def test_options_only_from_lit_cv_checkpoints(tmp_path):
    options = {"backbone": "resnet18", "stem": "small"}
    torch.save({"state_dict": {}, "hyper_parameters": options}, tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": options, "lit_cv": {}}, tmp_path / "own.ckpt")
    assert checkpoint_options(str(tmp_path / "own.ckpt")) == options
    assert checkpoint_options(str(tmp_path / "foreign.ckpt")) == {}
    assert checkpoint_options("DEFAULT") == {}
    with pytest.raises(FileNotFoundError):
        checkpoint_options(str(tmp_path / "absent.ckpt"))
