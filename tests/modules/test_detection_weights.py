"""DetectionModule with the weights of torchvision's detectors."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d
from torchvision.utils import save_image

from lit_cv import DetectionModule
from lit_cv.cli import main
from lit_cv.modules.loading import load_module
from tests.modules.scenes import QUIET, Rectangles
from tests.nn.detection.reference import smallest
from tests.test_resume import CALLBACKS, assert_same, final, run_until_killed

FIT = [
    "fit", "--trainer.callbacks", "null", "--model", "DetectionModule", "--model.lr", "1e-3",
    "--data", "ShapesDataModule", "--data.targets", "boxes", "--data.num_images", "16", "--data.batch_size", "4",
    "--data.image_size", "64", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--checkpoint.every_n_steps", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights of the smallest published detector."""
    path = tmp_path_factory.mktemp("weights") / "mobile.pth"
    torch.save(smallest().state_dict(), path)
    return str(path)


@pytest.mark.slow
def test_training_keeps_frozen_norms(weights: str, tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    module = DetectionModule(weights=weights, lr=1e-3)
    trainer = L.Trainer(**QUIET, max_steps=1, limit_val_batches=0)
    trainer.fit(module, Rectangles(8))
    assert (module.class_names, module.hparams["keep_classes"]) == (["red", "blue"], False)
    before = torch.load(weights, weights_only=True)
    frozen = [name for name, norm in module.backbone.body.named_modules() if isinstance(norm, FrozenBatchNorm2d)]
    assert len(frozen) > 40
    after = module.backbone.body.state_dict()
    for name in frozen:
        for key in ("weight", "bias", "running_mean", "running_var"):
            theirs = f"backbone.body.{name.removeprefix('features.')}.{key}"
            assert torch.equal(after[f"{name}.{key}"], before[theirs])
    assert not torch.equal(after["features.0.0.weight"], before["backbone.body.0.0.weight"])

    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    loaded = load_module(tmp_path / "last.ckpt")
    assert isinstance(loaded, DetectionModule)
    assert (loaded.hparams["weights"], loaded.hparams["layout"]) == (None, "fasterrcnn_mobilenet_v3_large_fpn")
    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        assert_same(loaded.detect(images), module.eval().detect(images))


@pytest.mark.slow
def test_predictions_without_training(weights: str, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "new").mkdir()
    for number, size in enumerate([(96, 128), (128, 90)]):
        save_image(torch.rand(3, *size), in_tmp / "new" / f"{number}.png")
    options = ["--data.canvas", "[64, 96]", "--data.num_workers", "0"]
    main(["predict", "--model", "DetectionModule", "--model.weights", weights, "--images", "new", *options])
    annotations = json.loads((in_tmp / "predictions" / "annotations" / "instances.json").read_text())
    assert [category["name"] for category in annotations["categories"]][:2] == ["person", "bicycle"]
    assert len(annotations["categories"]) == 80
    assert {image["file_name"]: (image["height"], image["width"]) for image in annotations["images"]} == {
        "0.png": (96, 128),
        "1.png": (128, 90),
    }
    assert "evaluating the weights of --model.weights" in capfd.readouterr().err


@pytest.mark.slow
def test_resume_is_exact(weights: str, in_tmp: Path) -> None:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    uninterrupted, killed = in_tmp / "uninterrupted", in_tmp / "killed"
    start = [*FIT, "--model.weights", weights]
    main([*start, "--trainer.default_root_dir", str(uninterrupted)])
    kill = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=2"]
    run_until_killed([*start, *kill, "--trainer.default_root_dir", str(killed)])
    main([*FIT, "--trainer.default_root_dir", str(killed), "--ckpt_path", "last"])
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(final(killed)[key], final(uninterrupted)[key], key)
