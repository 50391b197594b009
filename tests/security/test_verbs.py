"""Every verb that reads files, run in a folder with hostile files of every kind."""

import os
import resource
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.utils import save_image

from tests.marks import first_quick
from tests.security.hostile import EVIL, MARKER, QUICK, error_line, save_hostile

pytestmark = pytest.mark.slow

BEST = "lightning_logs/version_0/checkpoints/best.ckpt"
PHOTOS = [
    "--config=supervised", "--model.backbone=conv4", "--model.stem=standard", "--data=ImageFolderDataModule",
    "--data.root=photos", "--data.image_size=16", "--data.batch_size=4",
]  # fmt: skip
SKIP = "--data.on_error=skip"
VERBS = {
    "fit": ["fit", *PHOTOS, SKIP, "--data.cache=true", *QUICK],
    "fit, strictly": ["fit", *PHOTOS, *QUICK],
    "fit, continued": ["fit", "--ckpt_path=last", "--trainer.max_epochs=2", "--trainer.limit_train_batches=1"],
    "fit from weights": ["fit", "--config=supervised", "--model.weights=x.ckpt", *QUICK],
    "fit, configured": ["fit", "--config=strange.yaml", *QUICK],
    "fit of tar files": ["fit", "--config=supervised", "--data=WebDatasetDataModule", "--data.root=tars", *QUICK],
    "validate": ["validate", f"--ckpt_path={BEST}"],
    "test": ["test", "--ckpt_path=x.ckpt", "--data=DigitsDataModule"],
    "predict": ["predict", "--ckpt_path=best"],
    "predict of images": ["predict", "--ckpt_path=best", "--images=photos", "--data.on_error=skip"],
    "knn": ["knn", "--ckpt_path=best"],
    "find-lr": ["find-lr", *PHOTOS, SKIP, "--find_lr.steps=20"],
    "export": ["export", "x.ckpt"],
    "kfold": ["kfold", *PHOTOS, SKIP, "--folds=2", "--output=study", *QUICK[:2]],
    "compare": ["compare", "--comparison=compared.yaml", "--output=study"],
    "compare --redraw": ["compare", "--redraw", "--output=study"],
    "curves": ["curves", "lightning_logs"],
    "convert": ["convert", "--root=boxes", "--to=coco", "--out=converted", "--on_error=skip"],
    "convert of classes": ["convert", "--root=photos", "--to=csv", "--out=converted", "--on_error=skip"],
    "agreement": ["agreement", "--path=votes.csv"],
}
ESCAPES = "\x1b]0;owned\x07\x1b[2J"


def make_photos(root: Path) -> None:
    for name in ("cat", f"dog{ESCAPES}"):
        (root / name).mkdir(parents=True)
        for index in range(6):
            save_image(torch.rand(3, 16, 16), root / name / f"{index}.png")
    (root / "cat" / "postscript.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "cat" / f"broken{ESCAPES}.jpg").write_bytes(b"no image")
    os.rename(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/\xff.png")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / ".lit_cv_cache").mkdir()
    (root / ".lit_cv_cache" / "lock").symlink_to("../../victim.txt")


@pytest.fixture
def place(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as from a hostile archive; `victim` belongs to the user."""
    for name in ("evil", "tensorboard", "timm", "photos"):
        (fitted / f"{name}.py").write_text(EVIL)
    (fitted / "victim").mkdir()
    (fitted / "victim.txt").write_text("years of work")
    make_photos(fitted / "photos")
    run = fitted / "lightning_logs" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"] |= {"callbacks": [{"class_path": "evil.EvilCallback"}], "default_root_dir": "victim"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("training_curves.png", "predictions.csv", ".metrics.csv.part", "hparams.yaml", "find_lr.png"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(fitted / "victim.txt")
    save_hostile(fitted / "x.ckpt", "evil.EvilModule")
    (fitted / "strange.yaml").write_text("model: evil.EvilModule\ndata: {class_path: evil.EvilData}\n")
    (fitted / "compared.yaml").write_text(
        "data: DigitsDataModule\nlabels: [2]\nsteps: 1\n"
        "approaches: {../../victim/x: {stages: [{config: strange.yaml}]}}\n"
    )
    (fitted / "study" / "runs").mkdir(parents=True)
    (fitted / "study" / "compare.csv").write_text(f"approach,title\n=cmd(),{ESCAPES}\n")
    (fitted / "study" / ".lock").symlink_to(fitted / "victim.txt")
    (fitted / "boxes" / "images").mkdir(parents=True)
    (fitted / "boxes" / "labels").mkdir()
    save_image(torch.rand(3, 16, 16), fitted / "boxes" / "images" / "a.png")
    (fitted / "boxes" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    os.mkfifo(fitted / "boxes" / "labels" / "b.txt")
    (fitted / "boxes" / "data.yaml").write_text('names: ["cat\\x1b[2J"]\n')
    (fitted / "votes.csv").write_text(
        f"path,annotator,label\na{ESCAPES}.png,ann{ESCAPES},=cat\nb.png,ann{ESCAPES},dog\n"
    )
    (fitted / "tars").mkdir()
    (fitted / "tars" / "train-0.tar").write_bytes(b"\0" * 10_240)
    (fitted / "consensus.csv").symlink_to("victim.txt")
    (fitted / "curves.png").symlink_to("victim.txt")
    (fitted / "bin").mkdir()
    (fitted / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {fitted / MARKER}\n")
    (fitted / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fitted / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fitted / "user_cache"))
    return fitted


@pytest.mark.parametrize("verb", first_quick(VERBS, 4))
def test_verbs_on_hostile_files(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error_line(VERBS[verb], monkeypatch)
    assert not (place / MARKER).exists()
    assert list((place / "victim").iterdir()) == []
    assert (place / "victim.txt").read_text() == "years of work"
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output
    assert "\x1b]0;" not in output
    assert "\x1b[2J" not in output
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 700  # MiB
