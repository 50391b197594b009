"""Preprocessing values of foreign files are valid, or refused in one line that names the file."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_cv import SupervisedModule
from lit_cv.modules.loading import load_module
from lit_cv.nn import Backbone, create_backbone
from tests.marks import first_quick
from tests.security.hostile import QUICK, error_line, save_hostile

pytestmark = pytest.mark.slow

pytest.importorskip("timm")

NAME = "timm/test_vit"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    backbone = create_backbone(NAME)
    return {key.removeprefix("body."): value for key, value in backbone.state_dict().items() if key.startswith("body.")}


def refused(path: Path, name: str = NAME) -> str:
    """Return the error of building a network from a file."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        create_backbone(name, weights=str(path))
    error = str(raised.value)
    assert "\n" not in error
    assert len(error) < 1200
    return error


DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "empty": ("config.json", "", "its JSON is damaged"),
    "truncated": ("config.json", '{"pretrained_cfg": {"mean": [0.5', "its JSON is damaged"),
    "no text": ("config.json", b"\xff\xfe\x00\x80", "its JSON is damaged"),
    "deep": ("preprocessor_config.json", DEEP, "its JSON is damaged"),
    "a number of many digits": ("config.json", '{"x": ' + "9" * 10_000 + "}", "its JSON is damaged"),
    "long": ("config.json", "{" + " " * (1 << 20) + "}", "it is not the configuration of a network"),
    "a list": ("config.json", "[1]", "holds a list: a JSON object is allowed"),
}
CONFIGS: dict[str, tuple[Any, str]] = {
    "text": ("x", "its pretrained_cfg is a str"),
    "one value": ({"mean": [0.5] * 3}, "its mean and std have different numbers of channels"),
    "two lengths": ({"mean": [0.5] * 3, "std": [0.5]}, "its mean and std have different numbers of channels"),
    "a number": ({"mean": 0.5, "std": 0.5}, "its mean is 0.5: a list"),
    "texts": ({"mean": ["0.5"] * 3, "std": [0.5] * 3}, "its mean is ['0.5', '0.5', '0.5']: a list"),
    "truths": ({"mean": [True] * 3, "std": [0.5] * 3}, "its mean is [True, True, True]: a list"),
    "not a number": ({"mean": [float("nan")] * 3, "std": [0.5] * 3}, "its mean is not finite"),
    "infinite": ({"mean": [0.5] * 3, "std": [float("inf")] * 3}, "its std is not finite and positive"),
    "huge": ({"mean": [10**400] * 3, "std": [0.5] * 3}, "its mean is not finite"),
    "zero": ({"mean": [0.5] * 3, "std": [0.0] * 3}, "its std is not finite and positive"),
    "none": ({"mean": [], "std": []}, "its mean has 0 values"),
    "many": ({"mean": [0.5] * 70_000, "std": [0.5] * 70_000}, "its mean has 70000 values"),
    "interpolation": ({"interpolation": "x\n" * 1000}, "its interpolation is 'x\\n"),
    "interpolations": ({"interpolation": ["bicubic"]}, "its interpolation is ['bicubic']"),
    "crop": ({"crop_pct": -1}, "its crop is -1"),
    "crop of many digits": ({"crop_pct": 10**400}, "its crop is a number out of range"),
    "size": ({"input_size": [3, 10**9, 10**9]}, "its size is [1000000000, 1000000000]"),
    "size of text": ({"input_size": "224"}, "its size is '224'"),
    "size of floats": ({"input_size": [3, 224.5, 224]}, "its size is [224.5, 224]"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_invalid_configuration_beside_weights(state: dict[str, Any], tmp_path: Path, case: str) -> None:
    name, text, words = TEXTS[case]
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    error = refused(tmp_path / "x.pt")
    assert name in error
    assert words in error


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_values_beside_weights_give_one_line_error(state: dict[str, Any], tmp_path: Path, case: str) -> None:
    config, words = CONFIGS[case]
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    error = refused(tmp_path / "x.pt")
    assert "config.json" in error
    assert words in error


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_mean": [0.5] * 3}, "its mean and std have different numbers of channels"),
        ({"image_mean": {"r": 1}, "image_std": [0.5] * 3}, "its mean is a dict"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": "x"}}, "its size is 'x'"),
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0},
            "its rescale_factor is not",
        ),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1e-300}, "is not finite"),
    ],
)
def test_wrong_values_of_transformers(state: dict[str, Any], tmp_path: Path, values: Any, words: str) -> None:
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert words in refused(tmp_path / "x.pt")


def test_explicit_values_ignore_configuration(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text("{")
    backbone = create_backbone(NAME, weights=str(tmp_path / "x.pt"), mean=[0.1] * 3, std=[0.2] * 3)
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1] * 3)


def test_pipes_and_folders_beside_weights_do_not_block(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pt")
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "preprocessor_config.json").mkdir()
    assert create_backbone(NAME, weights=str(tmp_path / "x.pt")).mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "its JSON is damaged"),
        ("7", "its preprocessing is 7"),
        ('{"mean": "x"}', "its mean is 'x'"),
        ('{"size": [1e999, 2]}', "its size is [a number out of range, 2]"),
    ],
)
def test_metadata_of_safetensors(state: dict[str, Any], tmp_path: Path, text: str, words: str) -> None:
    save_file(state, tmp_path / "x.safetensors", {"preprocessing": text})
    error = refused(tmp_path / "x.safetensors")
    assert words in error


WRONG: dict[str, Any] = {
    "text": "x",
    "values": {"mean": "x"},
    "lines": {"mean": [0.5], "std": [0.5], "interpolation": "\n\x1b[31m" * 50},
    "tensor": {"mean": torch.zeros(3)},
    "huge": {"size": 10**400},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", first_quick(WRONG, 1))
def test_wrong_preprocessing_in_checkpoint(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    options = {"backbone": "conv4", "num_classes": 2, "in_channels": 1, "image_size": 8}
    original = SupervisedModule(**options)  # type: ignore[arg-type]
    original.configure_model()
    metadata = {"class_path": "lit_cv.modules.supervised.SupervisedModule", "preprocessing": WRONG[case]}
    state = original.state_dict()
    path = save_hostile(in_tmp / "x.ckpt", hyper_parameters=options, state_dict=state, lit_cv=metadata)
    with pytest.raises(ValueError, match=r"x\.ckpt.*its (preprocessing|mean|interpolation|size)") as raised:
        load_module(path)
    assert "\n" not in str(raised.value)
    for args in (
        ["export", "x.ckpt"],
        ["fit", "--config=supervised", "--model.backbone=conv4", "--model.weights=x.ckpt", *QUICK],
        ["validate", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", "--trainer.accelerator=cpu"],
    ):
        error = error_line(args, monkeypatch)
        assert error is not None
        assert "its " in error


def built(path: Path) -> Backbone | ValueError:
    """Return the network, or the error of building it."""
    try:
        return create_backbone(NAME, weights=str(path))
    except ValueError as error:
        return error


def mutated(draw: random.Random) -> Any:
    """Return a configuration with some invalid values."""
    odd: list[Callable[[], Any]] = [
        lambda: None, lambda: "x", lambda: -1, lambda: 10**30, lambda: [], lambda: {}, lambda: [[0.5]],
        lambda: [0.5] * draw.randint(1, 9), lambda: float("nan"), lambda: True, lambda: [224, 224], lambda: 0.9,
        lambda: "bicubic",
    ]  # fmt: skip
    keys = ("mean", "std", "interpolation", "crop_pct", "input_size", "image_mean", "image_std", "resample", "size",
            "crop_size", "do_center_crop", "do_normalize", "do_rescale", "rescale_factor", "hidden_act")  # fmt: skip
    values = {key: draw.choice(odd)() for key in draw.sample(keys, draw.randint(1, 8))}
    return draw.choice([{"pretrained_cfg": values}, values, {"vision_config": values}, [values]])


@pytest.mark.slow
def test_fuzzed_configurations(state: dict[str, Any], tmp_path: Path) -> None:
    draw, built_count = random.Random(0), 0
    torch.save(state, tmp_path / "x.pt")
    for case in range(60):
        for name in ("config.json", "preprocessor_config.json"):
            text = json.dumps(mutated(draw))
            (tmp_path / name).write_text(text[: draw.choice([len(text)] * 5 + [len(text) // 2])])
        result = built(tmp_path / "x.pt")
        if isinstance(result, ValueError):
            assert type(result) is ValueError, case
            assert "\n" not in str(result), case
            assert len(str(result)) < 1200, case
            continue
        built_count += 1
        assert result.mean.shape == (3, 1, 1)
        assert result.std.min() > 0
    assert 0 < built_count < 60
