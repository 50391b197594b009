"""Detection that is killed and continued ends as if it had not been."""

from pathlib import Path

import pytest

from lit_cv.cli import main
from tests.test_resume import CALLBACKS, assert_same_end, run_until_killed

FIT = [
    "fit", "--trainer.callbacks", "null",
    "--model", "DetectionModule", "--model.detector", "faster_rcnn",  # it draws samples
    "--model.backbone", "conv4", "--model.channels", "32",
    "--data", "ShapesDataModule", "--data.image_size", "32", "--data.num_images", "90", "--data.targets", "all",
    "--data.shapes_per_image", "2", "--data.batch_size", "16", "--trainer.max_epochs", "2", "--ema.decay", "0.9",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--checkpoint.every_n_steps", "2", "--trainer.callbacks+=Augmentation",
    '--trainer.callbacks.operations=["horizontal_flip", {"name": "affine", "scale": [0.8, 1.2]}]',
]  # fmt: skip


def test_killed_and_continued(in_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    whole = tmp_path_factory.mktemp("whole")
    main([*FIT, "--trainer.default_root_dir", str(whole)])
    killed = [*FIT, "--trainer.default_root_dir", str(in_tmp)]
    run_until_killed([*killed, "--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=7"])
    main([*killed, "--ckpt_path", "last"])
    assert_same_end(in_tmp, whole)
    assert (whole / "lightning_logs" / "version_0" / "predictions.png").is_file()
