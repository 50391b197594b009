import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule, UnreadableImageError, WebDatasetDataModule, shard_index
from datamodules.stored_file import cache_folder
from lit_cv.cli import main
from tests.datamodules.files import save_images
from tests.marks import first_quick


def module(root: Path, **kwargs: Any) -> WebDatasetDataModule:
    data = WebDatasetDataModule(str(root), **{"image_size": 8, "num_workers": 0, "batch_size": 4} | kwargs)
    data.prepare_data()
    data.setup()
    return data


def names(dataset: Any) -> list[str]:
    return [dataset.sample_name(index) for index in range(len(dataset))]


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (number, 255 - number, 7)).save(content, "png")
    return content.getvalue()


def save_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def save_shard(path: Path, numbers: range, classes: int = 2, **more: bytes) -> None:
    """Write a sample for each number, such as `0007.png` and `0007.cls`, with the number in the first red value."""
    members = {}
    for number in numbers:
        members[f"{number:04}.png"] = picture(number)
        members[f"{number:04}.cls"] = str(number % classes).encode()
    save_tar(path, members | more)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Write two training tar files with 20 images each, and one each for validation and test."""
    for number, (split, count) in enumerate((("train-0", 20), ("train-1", 20), ("val-0", 6), ("test-0", 8))):
        save_shard(tmp_path / "shards" / f"{split}.tar", range(40 * number, 40 * number + count))
    return tmp_path / "shards"


def test_splits_labels_and_images(shards: Path) -> None:
    data = module(shards)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [40, 6, 8]
    assert data.class_names == ["0", "1"]
    assert names(data.train_dataset)[18:22] == [f"train-{k}" for k in ("0.tar/0018.png", "0.tar/0019.png",
                                                                       "1.tar/0040.png", "1.tar/0041.png")]  # fmt: skip
    seen = []
    for batch in data.train_dataloader():
        reds = batch["image"][:, 0, 0, 0].tolist()
        assert [red % 2 for red in reds] == batch["label"].tolist()
        assert all(
            f"/{red:04}." in data.train_dataset.sample_name(k) for red, k in zip(reds, batch["index"], strict=True)
        )
        seen += reds
    assert sorted(seen) == [*range(20), *range(40, 60)]
    assert seen != sorted(seen)


def test_pixels_match_files_in_folders(tmp_path: Path) -> None:
    members = {}
    for label, name in enumerate(("cat", "dog")):
        for path in save_images(tmp_path / "folder" / name, 12, label, "jpg"):
            members |= {f"{name}/{path.stem}.jpg": path.read_bytes(), f"{name}/{path.stem}.cls": name.encode()}
    save_tar(tmp_path / "tars" / "images.tar", members)

    def batches(kind: Any, root: str, **kwargs: Any) -> list[dict[str, torch.Tensor]]:
        sizes = {"image_size": 8, "train_image_size": 10, "batch_size": 4}
        data = kind(str(tmp_path / root), **sizes, num_workers=0, **kwargs)
        data.prepare_data()
        data.setup()
        assert data.class_names == ["cat", "dog"]
        return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]

    expected = batches(ImageFolderDataModule, "folder")
    for kwargs in ({}, {"cache": True}, {"cache": True}, {"on_error": "skip"}):
        found = batches(WebDatasetDataModule, "tars", **kwargs)
        assert len(found) == len(expected) > 4
        for a, b in zip(expected, found, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", first_quick([0, 2]))
def test_resume_in_the_middle_of_an_epoch(shards: Path, workers: int) -> None:
    loader = module(shards).train_dataloader()
    loader.sampler.set_epoch(3)
    whole = list(loader)
    loader = module(shards, num_workers=workers).train_dataloader()
    loader.sampler.set_epoch(3)
    batches = iter(loader)
    first = [next(batches) for _ in range(4)]
    state = loader.state_dict()
    again = module(shards, num_workers=workers).train_dataloader()
    again.load_state_dict(state)
    for a, b in zip(whole, [*first, *again], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_ranks_share_the_images(shards: Path) -> None:
    def seen(rank: int) -> list[int]:
        data = module(shards)
        data.trainer = type("Place", (), {"global_rank": rank, "world_size": 2, "num_devices": 2})  # type: ignore[assignment]
        batches = [*data.train_dataloader(), *data.val_dataloader()]
        return [int(red) for batch in batches for red in batch["image"][:, 0, 0, 0]]

    assert sorted([*seen(0), *seen(1)]) == [*range(20), *range(40, 60), *range(80, 86)]


@pytest.mark.slow
def test_index_is_rebuilt_when_a_shard_changes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = shard_index.read_samples
    monkeypatch.setattr(shard_index, "read_samples", lambda f, p, *a: read.append(p.name) or real(f, p, *a))
    for _ in range(2):
        module(shards)
    assert sorted(read) == ["test-0.tar", "train-0.tar", "train-1.tar", "val-0.tar"]
    data = module(shards)
    save_shard(shards / "train-1.tar", range(100, 130))
    with pytest.raises(OSError, match=r"train-1\.tar has changed since the start of the run"):
        data.train_dataset[30]
    data = module(shards)
    assert len(read) == 8
    assert [len(data.train_dataset), int(data.train_dataset[49]["image"][0, 0, 0])] == [50, 129]
    assert len(list(cache_folder(shards).glob("shards-*.npz"))) == 1


def test_labels_from_names_json_and_list(tmp_path: Path) -> None:
    members = {}
    for number in range(12):
        notes = {"label": number % 3, "class": ["ant", "bee", "cow"][number % 3], "size": [10, 12], "Kind": "x"}
        members |= {f"a.b/{number}.input.JPG": picture(number), f"a.b/{number}.json": json.dumps(notes).encode()}
        members |= {f"a.b/{number}.mask.png": b"no image", f"a.b/.{number}.jpg": b"hidden", f"__{number}.x__": b""}
    save_tar(tmp_path / "data.tar", members)
    options = {"image_field": "input.jpg", "test_fraction": 0.0, "val_fraction": 0.0}
    data = module(tmp_path, label_field="class", **options)
    assert (data.class_names, data.train_dataset.labels.tolist()) == (["ant", "bee", "cow"], [0, 1, 2] * 4)
    assert data.train_dataset.sample_name(3) == "data.tar/a.b/3.input.jpg"
    assert module(tmp_path, label_field="label", **options).class_names == ["0", "1", "2"]
    assert (
        module(tmp_path, label_field=None, **options, label_fraction=None).unlabeled_dataset.labels.tolist()
        == [-1] * 12
    )
    assert module(tmp_path, label_field="Kind", **options).class_names == ["x"]
    with pytest.raises(ValueError, match=r"12 of 12 samples have no label: .* field of KEY\.json, or null"):
        module(tmp_path, **options)
    (tmp_path / "classes.txt").write_text("wasp\nbee\nant\ncow\n")
    data = module(tmp_path, label_field="class", **options)
    assert (data.num_classes, data.train_dataset.labels[:3].tolist()) == (4, [2, 1, 3])
    data = module(tmp_path, label_field="label", **options)
    assert (data.class_names[0], data.train_dataset.labels[:3].tolist()) == ("wasp", [0, 1, 2])
    with pytest.raises(ValueError, match="several labels, size="):
        module(tmp_path, label_field="size", **options)


def test_names_outside_a_folder_are_cleaned(tmp_path: Path) -> None:
    members = {}
    for key in ("/etc/a", "../../b", "c/../../d", "./e"):
        members |= {f"{key}.png": picture(3), f"{key}.cls": b"0"}
    save_tar(tmp_path / "x.tar", members)
    data = module(tmp_path, val_fraction=0.0, test_fraction=0.0)
    assert names(data.train_dataset) == ["x.tar/etc/a.png", "x.tar/b.png", "x.tar/c/d.png", "x.tar/e.png"]
    assert int(data.train_dataset[1]["image"][0, 0, 0]) == 3


def test_tar_files_in_folders_and_images_to_predict(tmp_path: Path) -> None:
    save_shard(tmp_path / "train" / "00.tar", range(12))
    save_shard(tmp_path / "validation" / "00.tar", range(4))
    save_tar(tmp_path / "predict-0.tar", {"x.png": picture(9)})
    data = module(tmp_path)
    assert [len(data.train_dataset), len(data.val_dataset or []), data.test_dataset] == [12, 4, None]
    assert names(data.predict_dataset) == ["predict-0.tar/x.png"]
    (tmp_path / "validation" / "00.tar").unlink()
    (tmp_path / "train").rename(tmp_path / "images")
    data = module(tmp_path, val_fraction=0.25, test_fraction=0.25)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [7, 2, 3]
    assert names(data.predict_dataset) == ["predict-0.tar/x.png"]


def broken(content: bytes, path: Path, how: str) -> None:
    end = content.rstrip(b"\0")
    cut = {"data": content[: len(end) // 2 + 100], "mark": content[: -(-len(end) // 512) * 512], "empty": b""}
    cut |= {"gzip": b"\x1f\x8b" + content, "text": b"a" * 2000, "joined": content * 2}
    cut |= {"header": content[:4096] + b"\xff" * 512 + content[4608:]}
    path.write_bytes(cut[how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("data", "truncated"), ("mark", "truncated"), ("empty", "truncated or not a tar file"), ("gzip", "compressed"),
        ("text", "not a tar file"), ("joined", "data after its end mark"), ("header", "broken at byte"),
    ],
)  # fmt: skip
def test_error_names_broken_tar_file(shards: Path, how: str, message: str) -> None:
    broken((shards / "train-1.tar").read_bytes(), shards / "train-1.tar", how)
    with pytest.raises(ValueError, match=rf"train-1\.tar .*{message}"):
        module(shards)
    assert not list(cache_folder(shards).glob("*.npz"))


def test_invalid_arguments_and_files(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere not found: set `root`"):
        module(tmp_path / "nowhere")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="no tar files in"):
        module(tmp_path / "nothing")
    save_shard(shards / "val-0.tar", range(4), classes=3)
    with pytest.raises(ValueError, match="the val samples have classes without training images: 2"):
        module(shards)
    (shards / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"classes\.txt has no class '2', a label of val"):
        module(shards)
    (shards / "extra.tar").write_bytes((shards / "train-0.tar").read_bytes())
    with pytest.raises(ValueError, match=r"extra\.tar belongs to no split"):
        module(shards)
    (shards / "extra.tar").rename(shards / "more.tar.gz")
    with pytest.raises(ValueError, match=r"more\.tar\.gz is compressed.*decompress it"):
        module(shards)
    save_tar(tmp_path / "two" / "a.tar", {"x.png": b"", "x.jpg": b"", "x.cls": b"0"})
    with pytest.raises(ValueError, match=r"a\.tar: x has several images \(png, jpg\): choose one with `image_field`"):
        module(tmp_path / "two")
    save_tar(tmp_path / "json" / "a.tar", {"x.png": b"", "x.json": b"{torn"})
    with pytest.raises(ValueError, match=r"a\.tar: x\.json is not valid JSON"):
        module(tmp_path / "json")
    with tarfile.open(tmp_path / "json" / "a.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("x.png"))
    with pytest.raises(ValueError, match=r"a\.tar contains 'x\.png' twice"):
        module(tmp_path / "json")


def test_incomplete_samples_raise_or_are_skipped(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"a.png": picture(1), "b.cls": b"0", "c.png": b"no image", "c.cls": b"1"}
    save_shard(shards / "train-1.tar", range(40, 60), **more)
    with pytest.raises(ValueError, match=r"1 of 43 samples have no image: train-1\.tar/b \(`image_field`"):
        module(shards)
    with pytest.raises(ValueError, match="no image: train-1"):
        module(shards, label_field=None)
    caplog.clear()
    for _ in range(2):
        assert len(module(shards, on_error="skip").train_dataset) == 40
    for text in ("no image: train-1.tar/b.", "no label: train-1.tar/a.png.", "train-1.tar/c.png: it is not an image"):
        assert text in caplog.text
    save_shard(shards / "train-1.tar", range(40, 60), **{"c.png": b"no image", "c.cls": b"1"})
    with pytest.raises(UnreadableImageError, match=r"train-1\.tar/c\.png: it is not an image"):
        module(shards).train_dataset[40]


def test_read_only_folder(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(module(shards).train_dataset) == 40


@pytest.mark.slow
def test_fit_and_test(shards: Path, in_tmp: Path) -> None:
    options = ["--data", "WebDatasetDataModule", "--data.root", str(shards), "--data.image_size", "16"]
    quick = ["--model.backbone", "conv4", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    recipe = ["fit", "--config", "imagefolder_supervised", "--data.batch_size", "8", "--data.train_image_size", "16"]
    cli = main([*recipe, *options, *quick, "--data.num_workers", "0", "--trainer.accelerator", "cpu"])
    assert cli is not None
    assert cli.trainer.global_step == 3
    assert np.isfinite(float(cli.trainer.callback_metrics["val_acc"]))


def test_split_comes_from_file_name_first(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "trainval" / split).mkdir(parents=True)
        save_shard(tmp_path / "trainval" / split / f"set-{split}-0.tar", range(6), classes=2)
    data = WebDatasetDataModule(str(tmp_path), image_size=8, batch_size=2, num_workers=0)
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset or ())) == (6, 6)
