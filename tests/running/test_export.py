"""Exported programs match the module, and need neither this project nor Lightning."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from datamodules import DigitsDataModule
from lit_cv import (
    BaseModule,
    DetectionModule,
    MAEModule,
    MAMLModule,
    MultiTaskModule,
    PrototypicalModule,
    RelationModule,
    SegmentationModule,
    SimCLRModule,
    SupervisedModule,
)
from lit_cv.cli import main
from lit_cv.modules.few_shot import FewShotModule
from lit_cv.nn.detection import Detections, named_entries
from lit_cv.nn.detection.mask_rcnn import _paste_padded
from lit_cv.running.export import (
    ExportedEpisode,
    ExportedModule,
    example_images,
    export_onnx,
    export_program,
    export_weights,
)
from lit_cv.running.object_comparison import ObjectComparison
from lit_cv.tasks import DetectionTask

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


ONNX_ALONE = """
import sys
sys.modules["torch"] = sys.modules["lit_cv"] = sys.modules["lightning"] = None
import numpy as np, onnxruntime
folder, images = sys.argv[1], np.load(sys.argv[1] + "/images.npy")
session = onnxruntime.InferenceSession(folder + "/model.onnx")
names = [output.name for output in session.get_outputs()]
parts = [session.run(names, {"image": part}) for part in (images[:1], images[1:])]
np.savez(folder + "/outputs.npz", **{name: np.concatenate(each) for name, each in zip(names, zip(*parts))})
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
    import onnxruntime

    metadata = onnxruntime.InferenceSession(str(in_tmp / "out" / "model.onnx")).get_modelmeta().custom_metadata_map
    assert {name: json.loads(metadata[name]) for name in description} == description
    files = {"model.json": ""}
    torch.export.load(in_tmp / "out" / "model.pt2", extra_files=files)
    assert json.loads(files["model.json"]) == description
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


def detection_module(detector: Any = "fcos", **options: Any) -> DetectionModule:
    """Return a detector with scores and boxes that differ between places."""
    torch.manual_seed(0)
    module = DetectionModule(
        backbone="resnet9_small",
        box_classes=["a", "b"],
        detector=detector,
        channels=32,
        num_convs=1,
        image_size=[40, 52],
        **options,
    )
    module.configure_model()
    spread(module.head)
    return module.eval()


def spread(detector: nn.Module) -> None:
    for name, parameter in detector.named_parameters():
        if name.endswith(("cls_logits.weight", "bbox_reg.weight", "cls_score.weight", "mask_fcn_logits.weight")):
            nn.init.normal_(parameter, std=0.05 if "bbox" in name else 0.4)
        elif name.startswith("head.") and parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)


def check_objects(outputs: dict[str, Tensor], expected: list[Detections], tolerance: float = 0.0) -> None:
    """Check that outputs have the expected objects in the first rows, and unused rows behind them."""
    assert sum(len(objects.scores) for objects in expected) > 10
    comparison = ObjectComparison()
    rows = outputs["scores"].shape[1]
    scores = [nn.functional.pad(objects.scores, (0, rows - len(objects.scores))) for objects in expected]
    torch.testing.assert_close(outputs["scores"], torch.stack(scores), rtol=0, atol=1e-4)
    for i, objects in enumerate(expected):
        count = len(objects.scores)
        entries = named_entries(objects)
        comparison.add({name: outputs[name][i : i + 1, :count] for name in entries},
                       {name: value[None] for name, value in entries.items()})  # fmt: skip
        assert (outputs["scores"][i, count:] == 0).all()
        assert (outputs["boxes"][i, count:] == 0).all()
        assert (outputs["labels"][i, count:] == -1).all()
        if objects.masks is not None:
            assert 0 < objects.masks.float().mean() < 0.9
            assert not outputs["masks"][i, count:].any()
    assert comparison.difference("outputs") <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn", "mask_rcnn"])
def test_detector_outputs_equal_detect(detector: str) -> None:
    module = detection_module(detector)
    exported = ExportedModule(module)
    masks = {"masks": [100, 40, 52]} if detector == "mask_rcnn" else {}
    assert exported.shapes == {"boxes": [100, 4], "scores": [100], "labels": [100], **masks}
    for count in (1, 5):
        images = example_images(exported.image_shape, count)
        with torch.no_grad():
            check_objects(exported(images), module.detect(images))


def test_detector_outputs_without_suppression() -> None:
    exported = ExportedModule(detection_module(), suppress=False)
    module = detection_module(iou_threshold=1.0, max_detections=1000)
    images = example_images(exported.image_shape, 2)
    with torch.no_grad():
        outputs = exported(images)
        check_objects(outputs, module.detect(images))
    assert (outputs["scores"] > 0).sum(1).min() > 100


def multi_task_module() -> MultiTaskModule:
    torch.manual_seed(0)
    tasks: dict[str, dict[str, Any]] = {
        "shape": {"type": "classification", "num_classes": 3},
        "cells": {"type": "detection", "classes": ["a", "b"], "channels": 32, "num_convs": 1},
        "pixels": {"type": "segmentation", "classes": ["ground", "cell"], "channels": 32},
    }
    module = MultiTaskModule(tasks, backbone="resnet9_small", image_size=[40, 52])
    module.configure_model()
    spread(cast(nn.Module, module.tasks["cells"].head))
    return module.eval()


def test_multi_task_outputs_by_name() -> None:
    module = multi_task_module()
    exported = ExportedModule(module)
    assert exported.shapes == {
        "shape": [3], "cells_boxes": [100, 4], "cells_scores": [100], "cells_labels": [100], "pixels": [2, 40, 52],
    }  # fmt: skip
    images = example_images(exported.image_shape, 2)
    with torch.no_grad():
        raw, outputs = module(images), exported(images)
    objects = cast(DetectionTask, module.tasks["cells"]).detect(raw["cells"], 2)
    check_objects({name: outputs[f"cells_{name}"] for name in ("boxes", "scores", "labels")}, objects)
    for name in ("shape", "pixels"):
        torch.testing.assert_close(outputs[name], raw[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retinanet", "faster_rcnn", "mask_rcnn", "without suppression", "multi-task", "segmentation"]
)
def test_programs_of_dense_tasks_match_module(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    modules: dict[str, Callable[[], BaseModule]] = {
        "retinanet": lambda: detection_module("retinanet"),
        "faster_rcnn": lambda: detection_module("faster_rcnn"),
        "mask_rcnn": lambda: detection_module("mask_rcnn"),
        "without suppression": detection_module,
        "multi-task": multi_task_module,
        "segmentation": segmentation_module,
    }
    exported = ExportedModule(modules[name](), suppress=name != "without suppression")
    images = example_images(exported.image_shape, 5)
    assert export_program(exported, tmp_path / "model.pt2", images) <= 1e-4
    assert export_onnx(exported, tmp_path / "model.onnx", images) <= 1e-4


@pytest.mark.slow
def test_exported_detector_without_torch(in_tmp: Path) -> None:
    pytest.importorskip("onnxruntime")
    module = detection_module()
    save_checkpoint(module, in_tmp / "a.ckpt")
    main(["export", "a.ckpt", "--formats", "torch", "onnx", "--output", "out"])
    description = json.loads((in_tmp / "out" / "model.json").read_text())
    assert description["classes"] == ["a", "b"]
    assert description["outputs"] == {"boxes": ["batch", 100, 4], "scores": ["batch", 100], "labels": ["batch", 100]}
    images = example_images((3, 40, 52), 5)
    np.save(in_tmp / "out" / "images.npy", images.numpy())
    subprocess.run([sys.executable, "-c", ONNX_ALONE, str(in_tmp / "out")], check=True, cwd="/")
    program = torch.export.load(in_tmp / "out" / "model.pt2").module()
    with torch.no_grad():
        expected = module.detect(images)
        check_objects(program(images), expected, 1e-4)
    with np.load(in_tmp / "out" / "outputs.npz") as file:
        check_objects({name: torch.from_numpy(file[name]) for name in file.files}, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [PrototypicalModule, RelationModule])
def test_episode_programs_match_module(cls: type[FewShotModule], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    torch.manual_seed(0)
    module = cls(in_channels=1, image_size=16)
    exported = ExportedEpisode(module)
    assert export_program(exported, tmp_path / "model.pt2") <= 1e-4
    assert export_onnx(exported, tmp_path / "model.onnx") <= 1e-4
    description = exported.describe()
    assert description["input"]["members"] == ["images", "classes"]
    assert description["outputs"] == {"logits": ["batch", "classes"]}
    support, query = example_images((1, 16, 16), 11), example_images((1, 16, 16), 4)
    labels = torch.arange(11) % 5
    expected = module.adapt(support, labels).adapted_logits(query)
    inputs = (support, torch.eye(5)[labels], query)
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(*inputs)["logits"], expected)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    values = {name: value.numpy() for name, value in zip(exported.input_names, inputs, strict=True)}
    np.testing.assert_allclose(session.run(None, values)[0], expected, atol=1e-4, rtol=1e-4)


def test_episode_of_other_modules_is_rejected() -> None:
    with pytest.raises(ValueError, match="MAMLModule does not compare query images with the examples of classes"):
        ExportedEpisode(MAMLModule(in_channels=1, image_size=16))


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


def segmentation_module() -> SegmentationModule:
    return SegmentationModule(
        backbone="resnet9_small", mask_classes=["ground", "cell"], channels=32, in_channels=3, image_size=32
    )


def save_checkpoint(module: BaseModule, path: Path) -> None:
    module.configure_model()
    class_path = f"{type(module).__module__}.{type(module).__name__}"
    metadata = {"class_path": class_path, "class_names": ["photo", "scan"]}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "lit_cv": metadata}
    torch.save(content, path)


def test_exported_classes_come_from_module(in_tmp: Path) -> None:
    save_checkpoint(segmentation_module(), in_tmp / "a.ckpt")
    main(["export", "a.ckpt", "--formats", "safetensors", "--output", "out"])
    assert json.loads((in_tmp / "out" / "model.json").read_text())["classes"] == ["ground", "cell"]


def test_candidates_of_mask_rcnn_have_no_masks() -> None:
    assert ExportedModule(detection_module("mask_rcnn"), suppress=False).shapes.keys() == {"boxes", "scores", "labels"}


@pytest.mark.parametrize("size", [(40, 52), (7, 9)])
def test_pasted_masks_equal_torchvision(size: tuple[int, int]) -> None:
    corners = torch.tensor(
        [[3.2, 4.9, 30.1, 22.0], [0, 0, 52, 40], [5, 5, 5.4, 5.2], [-3.5, -2.5, 8.6, 4.1], [1, 1, 2, 9]]
    )
    masks = nn.functional.interpolate(torch.rand(5, 1, 6, 6), 28, mode="bicubic").clamp(0, 1)
    expected = paste_masks_in_image(masks, corners, size)[:, 0] > 0.5
    assert torch.equal(_paste_padded(masks[:, 0], corners, size), expected)
    assert expected.flatten(1).any(1).sum() >= 4
