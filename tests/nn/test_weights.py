"""Weights by name and from files: loading, adapting, reporting and refusing."""

import logging
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models._api import WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms.functional import normalize

from lit_cv.nn import Backbone, create_backbone, load_head
from lit_cv.nn.torchvision_networks import without_classifier
from lit_cv.nn.weight_files import WeightFile, find_file
from lit_cv.nn.weights import read_weights

_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _randomize(model):
    """Randomize the BatchNorm buffers, so that a buffer that is not loaded is detected."""
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5).sub_(1.0 if name.endswith("mean") else 0.0).mul_(0.2)
    return model.eval()


@pytest.fixture
def published(monkeypatch):
    """Replace the download: return the weights by torchvision's names, and the list of requests."""
    states, asked = {}, []

    def get_state_dict(self, *args, **kwargs):
        asked.append((str(self), kwargs))
        return states[type(self).__name__]

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    return states, asked


@pytest.fixture
def checkpoint(tmp_path):
    """Return the path of a Trainer-like checkpoint and its backbone."""
    backbone = create_backbone("resnet9_small", mean=[0.2, 0.4, 0.6], std=[0.1, 0.2, 0.3]).eval()
    _randomize(backbone.body)
    state = OrderedDict((f"backbone.{key}", value) for key, value in backbone.state_dict().items())
    state["head.linear.weight"] = torch.zeros(10, backbone.num_features)
    path = tmp_path / "epoch=1.ckpt"
    torch.save({"state_dict": state, "epoch": 1, "hyper_parameters": {"lr": 0.1}}, path)
    return path, backbone


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvision_weights_by_name(name, published, caplog):
    model = _randomize(models.resnet18())
    states, asked = published
    states["ResNet18_Weights"] = model.state_dict()
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("resnet18", weights=name, data_statistics=([0.0] * 3, [1.0] * 3)).eval()
    assert asked == [("ResNet18_Weights.IMAGENET1K_V1", {"progress": True, "check_hash": True})]
    assert len(caplog.records) == 2
    assert "normalized by mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225] (ResNet18_Weights." in caplog.text
    assert "loaded 100 of 100 tensors of resnet18; missing (random): none; unexpected: fc." in caplog.text
    model.fc = nn.Identity()
    images = _images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(normalize(images / 255, *_IMAGENET))
        scale = expected.abs().max()
        torch.testing.assert_close(backbone(images) / scale, expected / scale, atol=1e-4, rtol=0)


def test_googlenet_normalization(published):
    model = _randomize(models.googlenet(init_weights=False, transform_input=True))
    published[0]["GoogLeNet_Weights"] = model.state_dict()
    backbone = create_backbone("googlenet", weights="DEFAULT").eval()
    model.fc = nn.Identity()
    images = _images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(normalize(images / 255, *_IMAGENET))
        scale = expected.abs().max()
        torch.testing.assert_close(backbone(images) / scale, expected / scale, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_old_names_of_published_files(published):
    model = models.densenet121()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in model.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    published[0]["DenseNet121_Weights"] = old
    backbone = create_backbone("densenet121", weights="DEFAULT")
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_old_names_of_vision_transformers(tmp_path, monkeypatch):
    state = {f"encoder.layers.encoder_layer_{i}.mlp.linear_{j}.bias": torch.zeros(1) for i in (0, 11) for j in (1, 2)}
    torch.save(state, tmp_path / "vit.pth")
    assert sorted(read_weights("vit_b_16", str(tmp_path / "vit.pth")).state) == [
        f"encoder.layers.encoder_layer_{i}.mlp.{j}.bias" for i in (0, 11) for j in (0, 3)
    ]


def test_checkpoint_restores_weights_and_normalization(checkpoint, caplog):
    path, saved = checkpoint
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("resnet9_small", weights=str(path), data_statistics=([0.0] * 3, [1.0] * 3))
    for key, value in saved.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(backbone.state_dict()[key], value), key
    assert "missing (random): none; unexpected: head.linear.weight" in caplog.text
    assert caplog.records[0].levelno == logging.INFO


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_state_dicts(tmp_path, suffix, checkpoint):
    saved = checkpoint[1]
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(saved.state_dict(), path)
    backbone = create_backbone("resnet9_small", weights=str(path)).eval()
    assert torch.equal(backbone(_images(2, 3, 16, 16)), saved(_images(2, 3, 16, 16)))


def test_gray_images_from_a_color_checkpoint(checkpoint):
    path, saved = checkpoint
    backbone = create_backbone("resnet9_small", in_channels=1, weights=str(path))
    torch.testing.assert_close(backbone.body.stem[0].weight, saved.body.stem[0].weight.sum(1, keepdim=True))
    assert backbone.mean.flatten().tolist() == pytest.approx([0.4])
    assert torch.equal(backbone.body.stages[2][0].weight, saved.body.stages[2][0].weight)


def test_small_stem_logs_missing_keys(published, caplog):
    model = models.resnet18()
    published[0]["ResNet18_Weights"] = model.state_dict()
    backbone = create_backbone("resnet18", stem="small", weights="DEFAULT")
    assert torch.equal(backbone.body.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert "loaded 99 of 100 tensors of resnet18; missing (random): conv1.weight;" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_small_stem_of_checkpoint_is_loaded(tmp_path, caplog):
    saved = create_backbone("resnet18", stem="small", in_channels=1)
    torch.save(saved.state_dict(), tmp_path / "small.pt")
    backbone = create_backbone("resnet18", stem="small", in_channels=2, weights=str(tmp_path / "small.pt"))
    torch.testing.assert_close(backbone.body.conv1.weight, saved.body.conv1.weight.expand(-1, 2, -1, -1) / 2)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    message = r"small\.pt: conv1\.weight has the shape \(64, 1, 3, 3\), but resnet18 needs \(64, 1, 7, 7\)"
    with pytest.raises(ValueError, match=message):
        create_backbone("resnet18", in_channels=1, weights=str(tmp_path / "small.pt"))


def test_positions_are_interpolated_to_other_image_size(tmp_path, monkeypatch):
    def tiny(name, weights, image_size=224):
        return models.VisionTransformer(image_size, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)

    monkeypatch.setattr(models, "get_model", tiny)
    model = tiny("vit_b_16", None, 64)
    nn.init.normal_(model.encoder.pos_embedding)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    same = create_backbone("vit_b_16", weights=str(tmp_path / "vit.pth"))
    assert same.body.image_size == 64
    assert torch.equal(same.body.encoder.pos_embedding, model.encoder.pos_embedding)
    larger = create_backbone("vit_b_16", weights=str(tmp_path / "vit.pth"), image_size=96)
    expected = interpolate_embeddings(96, 16, model.state_dict())["encoder.pos_embedding"]
    assert expected.shape[1] == 37
    assert torch.equal(larger.body.encoder.pos_embedding, expected)
    assert torch.equal(larger.body.conv_proj.weight, model.conv_proj.weight)


def test_weights_of_other_network_are_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match=r"none of its \d+ tensors belongs to conv4; it holds stem\.0\.weight"):
        create_backbone("conv4", weights=str(checkpoint[0]))
    with pytest.raises(ValueError, match=r"has the shape \(\d+.*but resnet9 needs \(\d+.*do backbone, stem"):
        create_backbone("resnet9", weights=str(checkpoint[0]))


def test_partial_match_warns(tmp_path, checkpoint, caplog):
    state = {key: value for key, value in checkpoint[1].state_dict().items() if "stages.4" not in key}
    torch.save(state, tmp_path / "part.pt")
    create_backbone("resnet9_small", weights=str(tmp_path / "part.pt"))
    assert caplog.records[0].levelno == logging.WARNING
    assert "loaded 30 of 40" in caplog.text
    assert "missing (random): stages.4.branch.0.0.weight" in caplog.text
    assert "and 6 more; unexpected: none" in caplog.text


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet50", "IMAGENET1K_V3", "resnet50 has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT: did you mean"),
        ("resnet50", "ResNet18_Weights.IMAGENET1K_V1", "resnet50 has IMAGENET1K_V1"),
        ("conv4", "DEFAULT", "conv4 has no published weights of this name; give the path"),
    ],
)
def test_unknown_names_are_refused(name, weights, words):
    with pytest.raises(ValueError, match=words):
        create_backbone(name, weights=weights)


class _Code:
    def __reduce__(self):
        return print, ("this code ran",)


def test_invalid_files_are_refused(tmp_path, checkpoint, capsys):
    def fail(path, words, error=ValueError):
        with pytest.raises(error, match=words) as raised:
            create_backbone("resnet9_small", weights=str(path))
        assert path.name in str(raised.value)
        assert "\n" not in str(raised.value)

    fail(tmp_path / "absent.ckpt", "there is no such file", FileNotFoundError)
    complete = checkpoint[0].read_bytes()
    torn = tmp_path / "torn.ckpt"
    for length in (0, 100, len(complete) // 2, len(complete) - 20):
        torn.write_bytes(complete[:length])
        fail(torn, "damaged or has another format")
    image = tmp_path / "image.pt"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    fail(image, "damaged or has another format")
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    fail(text, "damaged or has another format")
    code = tmp_path / "code.pt"
    for legacy in (False, True):
        torch.save({"state_dict": {"x": _Code()}}, code, _use_new_zipfile_serialization=not legacy)
        fail(code, "holds Python objects besides the weights")
    torch.save(nn.Linear(2, 2), code)
    fail(code, "holds Python objects besides the weights .*Linear")
    assert "ran" not in capsys.readouterr().out
    for content, words in (
        ([1, 2], "holds a list"),
        ({"a": 1}, "no named"),
        (torch.zeros(2), "holds a Tensor"),
    ):
        torch.save(content, code)
        fail(code, words)


def test_directory_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        create_backbone("conv4", weights=str(tmp_path))


def test_state_dict_round_trip_of_without_classifier(checkpoint):
    body = models.mobilenet_v3_small()
    backbone = Backbone("mobilenet", without_classifier(body), 3, *_IMAGENET)
    twin = Backbone("mobilenet", without_classifier(models.mobilenet_v3_small()), 3, *_IMAGENET)
    assert not twin.load_state_dict(backbone.state_dict()).missing_keys


@pytest.fixture
def parts(tmp_path, checkpoint):
    """Return the path, with a colon, of a checkpoint with different weights and a classifier in its teacher."""
    content = torch.load(checkpoint[0], weights_only=True)
    content["state_dict"] |= {f"teacher.{key}": value + 1 for key, value in content["state_dict"].items()}
    content["state_dict"]["teacher.head.linear.weight"] += 1
    path = tmp_path / "at 10:30.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("part", ["teacher", "teacher.backbone", "backbone", None])
def test_part_of_file(parts, checkpoint, part, caplog):
    weights = str(parts) if part is None else f"{parts}:{part}"
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("resnet9_small", weights=weights)
    shift = 1 if part and "teacher" in part else 0
    for key, value in checkpoint[1].state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(backbone.state_dict()[key], value + shift), key
    assert caplog.text.count(f"{weights}: loaded 40 of 40") == 1


def test_part_has_its_own_classifier(parts, caplog):
    width = torch.load(parts, weights_only=True)["state_dict"]["head.linear.weight"].shape[1]
    head = nn.ModuleDict({"linear": nn.Linear(width, 10, bias=False)})
    assert load_head(head, f"{parts}:teacher")
    assert (head["linear"].weight == 2).all()
    assert load_head(head, str(parts))
    assert (head["linear"].weight == 0).all()
    assert not load_head(head, f"{parts}:backbone")
    assert "no classifier of this shape" in caplog.text


def test_file_with_student_and_teacher(tmp_path, checkpoint):
    state = {f"module.backbone.{key}": value for key, value in checkpoint[1].state_dict().items()}
    both = {"student": state, "teacher": {key: value + 1 for key, value in state.items()}, "epoch": 3}
    torch.save(both, tmp_path / "dino.pth")
    backbone = create_backbone("resnet9_small", weights=f"{tmp_path / 'dino.pth'}:teacher")
    assert torch.equal(backbone.mean, checkpoint[1].mean + 1)
    with pytest.raises(ValueError, match=r"its parts are student, teacher: did you mean 'teacher'\?$"):
        create_backbone("resnet9_small", weights=f"{tmp_path / 'dino.pth'}:techer")


def test_part_within_an_entry(tmp_path, checkpoint):
    state = {f"module.encoder.{key}": value for key, value in checkpoint[1].state_dict().items()}
    torch.save({"teacher": state, "epoch": 3}, tmp_path / "dino.pth")
    backbone = create_backbone("resnet9_small", weights=f"{tmp_path / 'dino.pth'}:teacher.encoder")
    assert torch.equal(backbone.mean, checkpoint[1].mean)
    with pytest.raises(ValueError, match=r"has no part 'teacher\.network': its parts are teacher"):
        create_backbone("resnet9_small", weights=f"{tmp_path / 'dino.pth'}:teacher.network")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapped_networks(tmp_path, checkpoint, prefix):
    torch.save({f"{prefix}{key}": value for key, value in checkpoint[1].state_dict().items()}, tmp_path / "a.pth")
    assert torch.equal(create_backbone("resnet9_small", weights=str(tmp_path / "a.pth")).mean, checkpoint[1].mean)


@pytest.mark.parametrize(
    ("reference", "content", "words"),
    [
        ("", lambda state: {"net": state, "epoch": 3}, r"in parts, net: name one of them, such as {path}:net\.$"),
        ("", lambda state: {"student": state, "teacher": state}, r"such as {path}:student\.$"),
        ("", lambda state: {"state_dict": {f"model.{key}": state[key] for key in state}}, r"network: {path}:model\.$"),
        (":a", lambda state: {"a": {f"b.{key}": state[key] for key in state}}, r"network: {path}:a\.b\.$"),
    ],
)
def test_error_names_the_part_to_choose(tmp_path, reference, content, words):
    path = tmp_path / "weights.pth"
    torch.save(content(models.resnet18().state_dict()), path)
    with pytest.raises(ValueError, match=words.format(path=re.escape(str(path)))):
        create_backbone("resnet18", weights=f"{path}{reference}")


def test_error_lists_parts(parts):
    with pytest.raises(ValueError, match=r"has no part 'target': its parts are backbone, head, teacher\.$") as raised:
        create_backbone("resnet9_small", weights=f"{parts}:target")
    assert str(raised.value).startswith(str(parts))
    with pytest.raises(FileNotFoundError, match=r"weights='absent\.ckpt': there is no such file"):
        create_backbone("resnet9_small", weights="absent.ckpt:teacher")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("C:\\runs\\last.ckpt", ("C:\\runs\\last.ckpt", None)),
        ("C:\\runs\\last.ckpt:teacher", ("C:\\runs\\last.ckpt", "teacher")),
        ("C:last.ckpt", ("C:last.ckpt", None)),
        ("a.ckpt:b.ckpt", ("a.ckpt:b.ckpt", None)),
        ("runs/10:30/last.ckpt", ("runs/10:30/last.ckpt", None)),
        ("last.ckpt:teacher.backbone", ("last.ckpt", "teacher.backbone")),
        ("last.ckpt:target.0", ("last.ckpt", "target.0")),
        ("DEFAULT", None),
        ("DEFAULT:teacher", None),
    ],
)
def test_find_file(weights, expected):
    assert find_file(weights) == (None if expected is None else WeightFile(Path(expected[0]), expected[1]))


def test_file_name_with_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("last.ckpt:teacher").touch()
    assert find_file("last.ckpt:teacher") == WeightFile(Path("last.ckpt:teacher"))
