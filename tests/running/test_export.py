"""Exported programs match the module, and need neither this project nor Lightning."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from datamodules import DigitsDataModule
from lit_cv import BaseModule, DetectionModule, MAEModule, SegmentationModule, SimCLRModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.running.export import ExportedModule, example_images, export_onnx, export_program, export_weights

STANDALONE = """
import sys
import importlib.abc

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("lit_cv", "datamodules", "lightning", "pytorch_lightning", "lightning_fabric"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np, torch
folder, images = sys.argv[1], np.load(sys.argv[1] + "/images.npy")
program = torch.export.load(folder + "/model.pt2").module()
np.save(folder + "/torch.npy", program(torch.from_numpy(images))["logits"].detach().numpy())
try:
    import onnxruntime
except ImportError:
    sys.exit(0)
session = onnxruntime.InferenceSession(folder + "/model.onnx")
assert [entry.name for entry in session.get_inputs()] == ["image"], session.get_inputs()
assert session.get_inputs()[0].type == "tensor(uint8)"
np.save(folder + "/onnx.npy", session.run(["logits"], {"image": images})[0])
"""


class TwoTasks(BaseModule):
    """Two heads, like a multi-task module."""

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.ModuleDict({"kind": nn.Linear(num_features, 3), "color": nn.Linear(num_features, 2)})

    def forward(self, images: Tensor) -> Any:
        self.configure_model()
        features = self.backbone(images)
        return {name: head(features) for name, head in self.head.items()}

    def step(self, batch: Any, stage: Any) -> Any:
        raise NotImplementedError


class Boxes(TwoTasks):
    """Returns a list, which exported programs do not support."""

    def forward(self, images: Tensor) -> Any:
        return {"boxes": [images]}


def digits(count: int = 37) -> Tensor:
    data = DigitsDataModule()
    data.setup()
    assert data.test_dataset is not None
    images: Tensor = data.test_dataset.__getitems__(range(count))["image"]
    return images


def modules() -> dict[str, BaseModule]:
    torch.manual_seed(0)
    return {
        "ResNet": SupervisedModule(backbone="resnet9_small", num_classes=10, in_channels=1, image_size=8),
        "MAE": MAEModule(backbone="vit_micro_p2", in_channels=1, image_size=8, decoder_width=32, decoder_depth=1),
        "two tasks": TwoTasks(backbone="conv4", in_channels=1, image_size=8),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", modules())
def test_programs_match_module(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module, images = modules()[name], digits()
    exported = ExportedModule(module)
    assert export_program(exported, tmp_path / "model.pt2", images) <= 1e-4
    assert export_onnx(exported, tmp_path / "model.onnx", images) <= 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "model.onnx"}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    assert names == {"ResNet": ["logits"], "MAE": ["embedding"], "two tasks": ["kind", "color"]}[name]
    module.eval()
    with torch.no_grad():
        expected_outputs = module.embed(images) if name == "MAE" else module(images)
    for output, actual in zip(names, session.run(None, {"image": images.numpy()}), strict=True):
        expected = expected_outputs[output] if isinstance(expected_outputs, dict) else expected_outputs
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_export_verb_and_standalone_programs(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule"]
    limits = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    main(["fit", *model, *limits, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"])
    main(["export", "checkpoints/last.ckpt", "--dry_run"])
    assert "model.onnx" in capsys.readouterr().out
    main(["export", "checkpoints/last.ckpt", "--output", "out"])
    text = capsys.readouterr().out
    assert text.count("checked, within") == 2
    with pytest.raises(ValueError, match=r"model\.json already exists: choose another folder \(--output\)"):
        main(["export", "checkpoints/last.ckpt", "--output", "out", "--formats", "torch"])
    for folder in ("export", "export_1"):
        main(["export", "checkpoints/last.ckpt", "--formats", "safetensors"])
        assert (in_tmp / "checkpoints" / folder / "model.safetensors").is_file()
    description = json.loads((in_tmp / "out" / "model.json").read_text())
    assert description["classes"] == [str(k) for k in range(10)]
    assert description["input"]["image"] == ["batch", 1, 8, 8]
    images = digits()
    np.save(in_tmp / "out" / "images.npy", images.numpy())
    subprocess.run([sys.executable, "-c", STANDALONE, str(in_tmp / "out")], check=True, cwd="/")
    module = SupervisedModule.load_from_checkpoint(in_tmp / "checkpoints" / "last.ckpt").eval()
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(np.load(in_tmp / "out" / "torch.npy"), expected, atol=1e-4)
    np.testing.assert_allclose(np.load(in_tmp / "out" / "onnx.npy"), expected, atol=1e-4)


@pytest.mark.slow
def test_differing_program_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = ExportedModule(modules()["two tasks"])
    load = torch.export.load

    def load_changed(path: Any) -> Any:
        program = load(path)
        with torch.no_grad():
            next(iter(program.state_dict.values())).add_(0.1)
        return program

    monkeypatch.setattr(torch.export, "load", load_changed)
    with pytest.raises(ValueError, match=r"differs by .* from the module's output"):
        export_program(exported, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_missing_onnx_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "lit_cv\[export\]", or leave ONNX out'):
        export_onnx(ExportedModule(modules()["two tasks"]), tmp_path / "model.onnx")


def test_non_tensor_output_is_rejected() -> None:
    with pytest.raises(ValueError, match="Boxes returns a list, but programs need a fixed output"):
        ExportedModule(Boxes(backbone="conv4", in_channels=1, image_size=8))
    assert ExportedModule(SimCLRModule(backbone="conv4", in_channels=1, image_size=8)).name == "embedding"


def test_detector_is_rejected() -> None:
    module = DetectionModule(backbone="resnet9_small", box_classes=["cell"], channels=32, image_size=64)
    with pytest.raises(ValueError, match=r"DetectionModule returns a variable number of boxes.*--part embed"):
        ExportedModule(module)


def test_exported_weights_load_into_backbone(tmp_path: Path) -> None:
    module = modules()["ResNet"]
    module.configure_model()
    export_weights(module, tmp_path / "model.safetensors", ["a", "b"])
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["a", "b"]
        prepared = json.loads(file.metadata()["preprocessing"])
    assert prepared["mean"] == module.backbone.mean.flatten().tolist()
    assert prepared["std"] == module.backbone.std.flatten().tolist()
    torch.manual_seed(1)
    other = SupervisedModule(
        backbone="resnet9_small",
        num_classes=3,
        in_channels=1,
        image_size=8,
        weights=str(tmp_path / "model.safetensors"),
    )
    other.configure_model()
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[name]), name


def test_example_images_are_fixed_and_distinct() -> None:
    images = example_images((3, 16, 12), 5)
    assert images.dtype == torch.uint8
    assert torch.equal(images, example_images((3, 16, 12), 5))
    assert images.float().std((1, 2, 3)).min() > 5
    assert len({tuple(image.flatten().tolist()) for image in images}) == 5


def test_exported_classes_come_from_module(in_tmp: Path) -> None:
    module = SegmentationModule(
        backbone="resnet9_small", mask_classes=["ground", "cell"], channels=32, in_channels=3, image_size=32
    )
    module.configure_model()
    metadata = {"class_path": "lit_cv.modules.segmentation.SegmentationModule", "class_names": ["photo", "scan"]}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "lit_cv": metadata}
    torch.save(content, in_tmp / "a.ckpt")
    main(["export", "a.ckpt", "--formats", "safetensors", "--output", "out"])
    assert json.loads((in_tmp / "out" / "model.json").read_text())["classes"] == ["ground", "cell"]
