"""Quantized programs are close to the float ones, and their metrics are those of their outputs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv import BaseModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.running.export import ExportedModule, export_onnx
from lit_cv.running.object_comparison import ObjectComparison
from lit_cv.running.quantization import calibration_images
from lit_cv.tasks import ClassificationTask, DetectionTask
from tests.running.test_export import detection_module, segmentation_module


class Sized:
    """Images of several sizes, whose values are their positions."""

    def __len__(self) -> int:
        return 7

    def __getitems__(self, positions: Any) -> dict[str, Tensor]:
        return {"image": torch.stack([torch.full((3, 8 + i, 9), i, dtype=torch.uint8) for i in positions])}


def test_calibration_images_are_spread_and_of_one_size() -> None:
    data = SimpleNamespace(unlabeled_dataset=None, train_dataset=Sized())
    images = calibration_images(data, 4, (3, 8, 9))
    assert images.shape == (4, 3, 8, 9)
    assert images[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert len(calibration_images(data, 100, (3, 8, 9))) == 7
    with pytest.raises(ValueError, match=r"SimpleNamespace has no `train_dataset` .* leave `int8` out"):
        calibration_images(SimpleNamespace(), 4, (3, 8, 9))


def test_unsuitable_options_are_rejected(in_tmp: Path) -> None:
    for options, message in (
        (["--int8", "0"], "'0': give a number of at least 1"),
        (["--int8", "5", "--formats", "torch"], "--int8 needs --formats onnx"),
        (["--part", "episode", "--benchmark"], "--int8 and --benchmark are for programs of images alone"),
        (["--data.root", "x"], "--data.root is only used with --int8 N"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["export", "a.ckpt", *options])


def test_program_outputs_as_decoded_objects() -> None:
    from lit_cv.running.program_scores import _decoded

    outputs = {
        "cells_boxes": torch.arange(24.0).view(2, 3, 4),
        "cells_scores": torch.tensor([[0.9, 0.0, 0.0], [0.8, 0.7, 0.0]]),
        "cells_labels": torch.tensor([[1, -1, -1], [0, 1, -1]]),
        "kind": torch.eye(2),
    }
    objects = _decoded(DetectionTask("cells", classes=["a", "b"]), outputs, [{}], torch.tensor([1]))
    assert [entry.tolist() for entry in objects[0][1:3]] == [outputs["cells_scores"][1, :2].tolist(), [0, 1]]
    assert torch.equal(objects[0].boxes, outputs["cells_boxes"][1, :2])
    task = ClassificationTask("kind", num_classes=2)
    assert torch.equal(_decoded(task, outputs, torch.zeros(1), torch.tensor([1])), torch.eye(2)[1:])


@pytest.mark.slow
def test_int8_program_and_its_metrics(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule"]
    limits = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    main(["fit", *model, *limits, "--trainer.enable_progress_bar", "false"])
    export = ["export", "checkpoints/last.ckpt", "--output", "out", "--formats", "onnx"]
    main([*export, "--int8", "64", "--benchmark", "--data", "DigitsDataModule"])
    text = capsys.readouterr().out
    assert "calibrated with 64 training images" in text
    assert {"module", "model.onnx", "model_int8.onnx"} <= {line.partition(" ")[0] for line in text.splitlines()}
    sizes = {name: (in_tmp / "out" / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")}
    assert sizes["model_int8.onnx"] < 0.5 * sizes["model.onnx"]
    described = json.loads((in_tmp / "out" / "model.json").read_text())["int8"]
    assert described["calibration_images"] == 64
    data = DigitsDataModule()
    data.setup()
    assert data.val_dataset is not None
    batch = data.val_dataset.__getitems__(range(len(data.val_dataset)))
    logits = {}
    for name, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx")):
        session = onnxruntime.InferenceSession(str(in_tmp / "out" / file))
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [str(k) for k in range(10)]
        logits[name] = session.run(None, {"image": batch["image"].numpy()})[0]
        correct = (logits[name].argmax(1) == batch["label"].numpy()).mean()
        assert described["validation"][name]["acc"] == pytest.approx(correct, abs=1e-6)
    assert 0 < np.abs(logits["int8"] - logits["float32"]).max() < 0.2 * np.abs(logits["float32"]).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "segmenter", "fcos", "mask_rcnn"])
def test_openvino_reads_programs(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if name == "classifier":
        module: BaseModule = SupervisedModule(backbone="conv4", num_classes=10, in_channels=1, image_size=16)
    else:
        module = segmentation_module() if name == "segmenter" else detection_module(name)
    exported = ExportedModule(module)
    export_onnx(exported, tmp_path / "model.onnx")
    images = exported.example(3)[0]
    program = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = program(images.numpy())
    actual = {name: torch.from_numpy(outputs[name]) for name in exported.shapes}
    with torch.no_grad():
        expected = exported(images)
    if "boxes" in expected:
        comparison = ObjectComparison()
        comparison.add(actual, expected)
        assert comparison.difference("model.onnx") <= 1e-4
    else:
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
