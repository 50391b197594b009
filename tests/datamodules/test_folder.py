import shutil
import unicodedata
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule, UnreadableImageError
from datamodules.folder import find_images
from tests.datamodules.files import save_images


def module(root: Path, **kwargs: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), **{"image_size": 8, "num_workers": 0, "batch_size": 4} | kwargs)
    data.prepare_data()
    data.setup()
    return data


def names(dataset: Any) -> list[str]:
    return [dataset.sample_name(index) for index in range(len(dataset))]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Create one folder with three classes."""
    for seed, name in enumerate(("cat", "dog", "Übermut")):
        save_images(tmp_path / "pool" / name, 20, seed)
    return tmp_path / "pool"


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Create folders `train`, `valid` and `test` with two classes."""
    for seed, name in enumerate(("train", "valid", "test")):
        for label in ("a", "b"):
            save_images(tmp_path / "splits" / name / label, 6 - seed, seed)
    return tmp_path / "splits"


def test_one_folder_is_split(pool: Path) -> None:
    data = module(pool, val_fraction=0.25, test_fraction=0.2)
    assert data.class_names == ["cat", "dog", "Übermut"]
    parts = [names(part) for part in (data.train_dataset, data.val_dataset, data.test_dataset)]
    assert [len(part) for part in parts] == [36, 12, 12]
    assert len(set(sum(parts, []))) == 60  # noqa: RUF017
    assert data.class_counts().tolist() == [12, 12, 12]
    again = module(pool, val_fraction=0.25, test_fraction=0.2)
    assert names(again.test_dataset) == parts[2]
    for part in (data.train_dataset, data.test_dataset):
        assert part is not None
        labels = [data.class_names[int(label)] for label in part.labels]
        assert labels == [name.split("/")[0] for name in names(part)]


def test_given_splits(splits: Path) -> None:
    data = module(splits)
    assert [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)] == [12, 10, 8]
    assert names(data.val_dataset)[0] == "valid/a/00.png"


def test_images_and_sizes(splits: Path) -> None:
    data = module(splits, train_image_size=9)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 9, 9)
    assert next(iter(data.val_dataloader()))["image"].shape == (4, 3, 8, 8)
    assert data.image_size == (8, 8)
    assert (data.mean, data.in_channels) == (None, 3)
    for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
        color = Image.open(splits / data.train_dataset.sample_name(index)).getpixel((0, 0))
        assert torch.equal(image, torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, 9, 9))
    assert module(splits, channels=1).train_dataset[0]["image"].shape == (1, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_batches(splits: Path, workers: int) -> None:
    batches = list(module(splits, num_workers=workers).train_dataloader())
    expected = list(module(splits).train_dataloader())
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch["image"], other["image"])
        assert torch.equal(batch["label"], other["label"])


def test_other_files_are_ignored(pool: Path) -> None:
    (pool / ".hidden").mkdir()
    (pool / "cat" / ".00.png").write_bytes(b"")
    (pool / "cat" / "Thumbs.db").write_bytes(b"")
    (pool / "notes.txt").write_text("")
    (pool / "cat" / "deeper").mkdir()
    (pool / "cat" / "00.png").rename(pool / "cat" / "deeper" / "a.PNG")
    (pool / "cat" / "around").symlink_to(pool)
    (pool / "dog" / "link.png").symlink_to(pool / "dog" / "00.png")
    data = module(pool, val_fraction=0.0, test_fraction=0.0)
    found = names(data.train_dataset)
    assert "cat/deeper/a.PNG" in found
    assert "dog/link.png" in found
    assert not any("around/cat" in name for name in found)
    assert len([name for name in found if name.startswith("dog/")]) == 21


def test_class_names_in_two_normal_forms(splits: Path) -> None:
    (splits / "train" / "b").rename(splits / "train" / unicodedata.normalize("NFC", "é"))
    (splits / "valid" / "b").rename(splits / "valid" / unicodedata.normalize("NFD", "é"))
    (splits / "test" / "b").rename(splits / "test" / unicodedata.normalize("NFC", "é"))
    data = module(splits)
    assert len(data.val_dataset or []) == 10


def test_class_named_train(pool: Path) -> None:
    (pool / "cat").rename(pool / "train")
    assert module(pool).class_names == ["dog", "train", "Übermut"]


def test_error_names_unknown_class(splits: Path) -> None:
    (splits / "valid" / "b").rename(splits / "valid" / "c")
    with pytest.raises(ValueError, match=r"valid has classes without training images: c\. Known: a, b"):
        module(splits)


def test_error_names_empty_class(splits: Path) -> None:
    (splits / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="class folders without images: empty"):
        module(splits)


def test_class_without_validation_images(splits: Path) -> None:
    for path in (splits / "valid" / "b").iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match="no images of: b"):
        data = module(splits)
    assert data.num_classes == 2


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere not found: set `root`"):
        module(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="contains no folders"):
        module(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_names_unreadable_file(splits: Path, workers: int) -> None:
    for split in ("train", "valid"):
        path = splits / split / "a" / "03.png"
        path.write_bytes(path.read_bytes()[:40])
    data = module(splits, num_workers=workers, batch_size=2)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        with pytest.raises(UnreadableImageError, match=r"^cannot read the image .*a/03\.png: [^\n]+$"):
            list(loader)
        if workers:
            loader._iterator._shutdown_workers()  # takes 5 seconds if left to garbage collection


@pytest.mark.parametrize("cache", [False, True])
def test_unreadable_files_are_skipped(pool: Path, cache: bool, caplog: pytest.LogCaptureFixture) -> None:
    whole = names(module(pool, val_fraction=0.0, test_fraction=0.0).train_dataset)
    (pool / "cat" / "05.png").write_bytes(b"nothing")
    (pool / "dog" / "00.png").unlink()
    (pool / "dog" / "00.png").symlink_to("nowhere.png")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        data = module(pool, on_error="skip", cache=cache, val_fraction=0.0, test_fraction=0.0)
        assert set(whole) - set(names(data.train_dataset)) == {"cat/05.png", "dog/00.png"}
        assert "2 of 60 images cannot be read" in caplog.text
        assert "cat/05.png: it is not an image" in caplog.text
        assert sum(len(batch["label"]) for batch in data.train_dataloader()) == 56
    save_images(pool / "cat", 6)
    data = module(pool, on_error="skip", cache=cache, val_fraction=0.0, test_fraction=0.0)
    assert set(whole) - set(names(data.train_dataset)) == {"dog/00.png"}


def test_images_to_predict(splits: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "new" / "some" / "where", 3)
    data = module(splits, predict_root=str(tmp_path / "new"))
    batches = list(data.predict_dataloader())
    assert batches[0]["label"].tolist() == [-1, -1, -1]
    assert names(data.predict_dataset) == [f"some/where/0{index}.png" for index in range(3)]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        module(splits, predict_root=str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there are no images in"):
        module(splits, predict_root=str(tmp_path / "empty"))


def test_resumed_epoch_reads_only_the_rest(splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(splits)
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    state, rest = loader.state_dict(), [batch["index"].tolist() for batch in batches]
    (splits / data.train_dataset.sample_name(0)).touch()
    resumed = module(splits).train_dataloader()
    resumed.load_state_dict(state)
    reads: list[str] = []
    monkeypatch.setattr(
        "datamodules.files.read_image",
        lambda path, *args: reads.append(path.name) or torch.zeros(3, 8, 8, dtype=torch.uint8),
    )
    assert [batch["index"].tolist() for batch in resumed] == rest
    assert len(reads) == 8


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_size": 0}, "image_size=0.*at least 1"),
        ({"channels": 2}, "channels=2.*1 or 3"),
        ({"on_error": "ignore"}, "on_error='ignore'.*'raise' or 'skip'"),
        ({"test_fraction": 1.0}, r"test_fraction=1.0.*\[0, 1\)"),
    ],
)
def test_arguments_out_of_range(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(**kwargs)


def test_it_is_a_lightning_datamodule(splits: Path) -> None:
    assert isinstance(module(splits), L.LightningDataModule)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_names_disappeared_file(splits: Path, workers: int) -> None:
    data = module(splits, num_workers=workers, batch_size=2)
    loader = data.train_dataloader()
    (splits / "train" / "a" / "03.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^an image file disappeared during the run: [^\n]*a/03\.png"):
        list(loader)
    if workers:
        loader._iterator._shutdown_workers()


def test_messages_with_many_classes(tmp_path: Path) -> None:
    for split, count in (("train", 60), ("val", 30)):
        for number in range(count):
            folder = tmp_path / split / f"{number:02}"
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(b"listed, but not opened")
    with pytest.warns(UserWarning, match=r"has no images of: 30, .* 49 and 10 more\.$"):
        assert len(ImageFolderDataModule(str(tmp_path)).load("val")) == 30  # type: ignore[arg-type]


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("TRAIN", "Test"), ("seg_train", "seg_test")])
def test_split_folders_with_other_names(tmp_path: Path, train: str, test: str) -> None:
    for split, count in ((train, 6), (test, 3)):
        for seed, name in enumerate(("cat", "dog")):
            save_images(tmp_path / split / name, count, seed + count)
    data = module(tmp_path, val_fraction=0.0)
    assert data.class_names == ["cat", "dog"]
    assert (len(data.train_dataset), len(data.test_dataset or ())) == (12, 6)


def test_warns_about_ignored_folders(splits: Path, caplog: pytest.LogCaptureFixture) -> None:
    (splits / "valid").rename(splits / "Val")
    save_images(splits / "holdout" / "a", 2, seed=9)
    data = module(splits)
    assert len(data.val_dataset or ()) == 10
    assert "other folders are ignored: holdout" in caplog.text


def test_split_folders_without_train_are_refused(splits: Path) -> None:
    for path in sorted((splits / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (splits / "train").rmdir()
    with pytest.raises(ValueError, match=r"split folders \(valid, test\), but none for training.*`root`"):
        module(splits)


def test_system_files_are_ignored(pool: Path) -> None:
    save_images(pool / "cat" / "@eaDir", 5)
    save_images(pool / "@eaDir", 5)
    save_images(pool / "__MACOSX" / "cat", 5)
    (pool / "dog" / "._00.png").write_bytes(b"\0\5\x16\7")
    data = module(pool, val_fraction=0.0, test_fraction=0.0)
    assert data.class_names == ["cat", "dog", "Übermut"]
    assert len(data.train_dataset) == 60


def test_error_names_folders_that_look_alike(pool: Path) -> None:
    (pool / unicodedata.normalize("NFD", "Übermut")).mkdir()
    with pytest.raises(ValueError, match="two folders named 'Übermut' with differently encoded accents"):
        module(pool)


@pytest.mark.parametrize(("size", "told"), [(64, True), (24, False)])
def test_warns_about_enlarged_images(pool: Path, caplog: pytest.LogCaptureFixture, size: int, told: bool) -> None:
    module(pool, image_size=size)
    said = "The images have 11 x 13 pixels and are enlarged to 64 x 64"
    assert (said in caplog.text) == told
    assert ("`image_size=11`" in caplog.text) == told


def test_warns_about_images_beside_class_folders(pool: Path, splits: Path, caplog: pytest.LogCaptureFixture) -> None:
    for root in (pool, splits / "valid"):
        save_images(root, 4, seed=7)
    module(pool)
    module(splits)
    said = [record.getMessage() for record in caplog.records if "in no class folder" in record.getMessage()]
    assert [text.partition(" in ")[0] for text in said] == ["4 images", "4 images"]
    assert said[0].endswith("are skipped: 00.png, 01.png, 02.png, 03.png.")


def test_no_image_has_a_label_if_root_is_unlabeled(pool: Path, splits: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(pool, 4, seed=7)
    for root in (pool, splits):
        data = module(root, unlabeled_root=".")
        images = data.unlabeled_dataset
        assert images.paths == find_images(root)
        assert images.labels.eq(-1).all()
        assert (data.num_classes, data.val_dataset, data.test_dataset) == (None, None, None)
    assert "skipped" not in caplog.text
    assert "twice" not in caplog.text


def test_unlabeled_test_folder_is_skipped(splits: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(splits / "test")
    save_images(splits / "test", 4)
    assert module(splits).test_dataset is None
    assert "contains images without class folders and is skipped: use `predict_root`" in caplog.text


def test_split_folders_without_classes_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_images(tmp_path / split, 4)
    with pytest.raises(ValueError, match=r"split folders \(train, test\) without class folders"):
        module(tmp_path)


def test_warns_about_classes_named_like_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        for split in ("train", "test"):
            save_images(tmp_path / f"fold_{number}_{split}" / "cat", 4, seed=number)
    module(tmp_path)
    assert "named like splits are read as classes (fold_1_test, fold_1_train, fold_2_test, fold_2_train)" in caplog.text


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("layout", ["pool", "splits"])
def test_unlabeled_root_adds_images_to_train_on(
    layout: str, inside: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(layout)
    labeled = module(root)
    folder = root / "more" if inside else tmp_path / "more"
    save_images(folder / "deeper", 7, 9)
    data = module(root, unlabeled_root="more" if inside else str(folder))
    assert data.class_names == labeled.class_names
    assert len(data.unlabeled_dataset) == len(labeled.train_dataset) + 7
    assert (data.unlabeled_dataset.labels < 0).sum() == 7
    assert names(data.train_dataset) == names(labeled.train_dataset)
    assert names(data.test_dataset) == names(labeled.test_dataset)
    assert data.unlabeled_dataset[len(data.unlabeled_dataset) - 1]["image"].shape == (3, 8, 8)


def test_unlabeled_root_without_images_is_an_error(pool: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere not found: set .*unlabeled_root"):
        module(pool, unlabeled_root="nowhere")
