import csv
import errno
import logging
import os
import runpy
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules import CSVDataModule
from lit_cv import atomic_files
from lit_cv.annotations import load_mask
from lit_cv.callbacks import PredictionWriter, prediction_rows
from lit_cv.callbacks.prediction_rows import RowFile
from tests.annotations.sets import save_image
from tests.processes import run_ranks

BATCHES = [{"probabilities": torch.tensor([[0.25, 0.75], [0.75, 0.25]])}] * 5
TWO = """
import lightning as L, torch
from torch.utils.data import DataLoader, Dataset
from lit_cv.callbacks import PredictionWriter

class Data(Dataset):
    def __len__(self): return 7
    def __getitem__(self, index): return {"index": index, "p": torch.tensor([index / 8, 1 - index / 8])}
    def sample_name(self, index): return f"{index}\\udcff\\n .jpg"

class Echo(L.LightningModule):
    def predict_step(self, batch, batch_idx):
        return {"probabilities": batch["p"], "index": batch["index"], "age_values": batch["p"][:, :1]}

def run(devices):
    callbacks = [PredictionWriter(str(devices), order="uncertainty")]
    strategy = "ddp" if devices > 1 else "auto"
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = L.Trainer(devices=devices, strategy=strategy, callbacks=callbacks, **options)
    trainer.predict(Echo(), DataLoader(Data(), batch_size=2), return_predictions=False)
"""


class Dataset:
    def __len__(self) -> int:
        return 10

    def sample_name(self, index: int) -> str:
        return f"{index}.jpg"


class Loader:
    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches
        self.dataset = Dataset()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)


class Echo(L.LightningModule):
    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.fails_at = fails_at

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        if batch_idx == self.fails_at:
            raise RuntimeError("broken")
        return batch


def predict(folder: Path, batches: list[dict[str, Tensor]] = BATCHES, fails_at: int = -1, **options: Any) -> None:
    callbacks: list[L.Callback] = [PredictionWriter(str(folder), **options)]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=callbacks)
    trainer.predict(Echo(fails_at), Loader(batches))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def full_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a disk that is full in the middle of a row, after `count` batches."""
    write = os.write
    calls: list[bytes] = []

    def limited(handle: int, content: bytes) -> int:
        if b".jpg" not in content and not calls[count:]:
            return write(handle, content)
        calls.append(content)
        if len(calls) <= count:
            return write(handle, content)
        if len(calls) == count + 1:
            return write(handle, content[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("order", [None, "uncertainty"])
def test_full_disk_keeps_complete_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    full_after(3, monkeypatch)
    with pytest.raises(OSError, match=r"the rows of 6 of 10 images in .*predictions\.unfinished\.csv") as caught:
        predict(tmp_path, order=order)
    assert caught.value.errno == errno.ENOSPC
    assert "(No space left on device)" in str(caught.value)
    assert "choose another folder (`folder`)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["predictions.unfinished.csv"]
    assert [row[:2] for row in read(tmp_path / "predictions.unfinished.csv")[1:]] == [
        [f"{index}.jpg", "10"[index % 2]] for index in range(6)
    ]


def test_full_disk_at_the_end_keeps_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prediction_rows, "atomic_write", full)
    with pytest.raises(OSError, match=r"the rows of 10 of 10 images in .*predictions\.unfinished\.csv"):
        predict(tmp_path, order="uncertainty")
    assert len(read(tmp_path / "predictions.unfinished.csv")) == 11


def test_full_disk_keeps_previous_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    save = Image.Image.save
    calls: list[Any] = []

    def limited(image: Any, *args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(image, *args, **options)

    monkeypatch.setattr(Image.Image, "save", limited)
    batch = {"masks": torch.ones(2, 8, 8, dtype=torch.int64), "image": torch.zeros(2, 3, 8, 8)}
    with pytest.raises(OSError, match=r"saved so far: the masks of 3 of 10 images in .*predictions. Free some space"):
        predict(tmp_path, [batch] * 5)
    assert names(tmp_path / "predictions/masks") == ["0.png", "1.png", "2.png"]
    assert load_mask(tmp_path / "predictions/masks/2.png").tolist() == [[1] * 8] * 8


def test_full_disk_leaves_no_partial_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_cv.annotations import voc

    write = atomic_files.write_text
    calls: list[Any] = []

    def limited(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args, **options)

    monkeypatch.setattr(voc, "write_text", limited)
    box = [torch.tensor([[1.0, 1, 5, 5]])] * 2
    batch: Any = {"boxes": box, "box_labels": [torch.tensor([0])] * 2, "scores": [torch.tensor([0.9])] * 2}
    with pytest.raises(OSError, match=r"\(No space left on device\); nothing was saved"):
        predict(tmp_path, [batch | {"image": torch.zeros(2, 3, 8, 8)}] * 5, format="voc")
    assert names(tmp_path) == []


def test_real_full_disk(tmp_path: Path) -> None:
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(OSError, match=r"No space left on device\); saved so far: the rows of \d+ of 10 images"):
            predict(tmp_path, [{"probabilities": torch.full((100, 2), 0.5)}] * 50)
        rows = read(tmp_path / "predictions.unfinished.csv")
        assert len(rows) % 100 == 1
        assert {len(row) for row in rows} == {5}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_failed_run_logs_saved_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        predict(tmp_path, fails_at=2)
    assert "incomplete. Saved: the rows of 4 of 10 images in" in caplog.text
    kept = tmp_path / "predictions.unfinished.csv"
    assert len(read(kept)) == 5
    predict(tmp_path)
    assert names(tmp_path) == ["predictions.csv", "predictions.unfinished.csv"]
    with pytest.raises(RuntimeError, match="broken"):
        predict(tmp_path, fails_at=1)
    assert "predictions.unfinished_1.csv" in names(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        predict(tmp_path / "none", fails_at=0)
    assert not (tmp_path / "none").exists()
    for index in range(4):
        save_image(tmp_path / f"{index}.jpg", 9, 9)
    data = CSVDataModule(str(kept), path_column="image", label_columns=["predicted"], test_fraction=0, val_fraction=0)
    data.setup()
    assert data.train_dataset.labels.tolist() == [1, 0, 1, 0]


def test_links_are_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lit_cv")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    planted = ["predictions.csv", "predictions.unfinished.csv", ".predictions.csv.part", ".predictions.csv.1.pt"]
    for name in (*planted, "embeddings.npz"):
        (run / name).symlink_to(tmp_path / "victim")
    (run / "predictions").symlink_to(tmp_path / "elsewhere")
    masks = torch.ones(2, 8, 8, dtype=torch.int64)
    batch = {**BATCHES[0], "masks": masks, "embedding": torch.zeros(2, 3), "image": torch.zeros(2, 3, 8, 8)}
    predict(run, [batch])
    assert (tmp_path / "victim").read_text() == "mine"
    assert names(tmp_path / "elsewhere") == []
    assert len(read(run / "predictions_1.csv")) == 3
    assert (run / "predictions_1/masks/0.png").is_file()


@pytest.mark.slow
def test_rows_use_no_memory(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "t.csv", ["image", "value"])
    tracemalloc.start()
    for start in range(0, 50_000, 100):
        file.add(range(start, start + 100), [[f"{start}.jpg", "1"]] * 100)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200_000
    assert len(read(file.finish(tmp_path / "t.csv"))) == 50_001
    assert file.images == 50_000


def test_rows_are_sorted_in_dataset_order(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "t.csv", ["image"])
    file.add([3, 1], [["c\n"], ["a"]])
    file.add([3, 2], [["c\n"], ['"b",']])
    assert read(file.finish(tmp_path / "t.csv")) == [["image"], ["a"], ['"b",'], ["c\n"]]
    assert file.images == 3
    assert names(tmp_path) == ["t.csv"]


def test_two_ranks_write_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(TWO)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "2").mkdir()
    for rank in (0, 1):
        (tmp_path / "2" / f".predictions.csv.{rank}.pt").symlink_to(tmp_path / "victim")
    monkeypatch.chdir(tmp_path)
    run = runpy.run_path("program.py")["run"]
    run(1)
    run_ranks(lambda rank: run(2))
    for name in ("predictions.csv", "predictions_age.csv"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    left = [name for name in names(tmp_path / "2") if not (tmp_path / "2" / name).is_symlink()]
    assert left == ["predictions.csv", "predictions_age.csv"]
    assert (tmp_path / "victim").read_text() == "mine"
