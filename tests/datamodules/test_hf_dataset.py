import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import HFDatasetDataModule, ImageFolderDataModule, UnreadableImageError
from lit_cv import SupervisedModule
from lit_cv.cli import main
from tests.datamodules.files import save_images
from tests.datamodules.saved_sets import CLASSES, IMAGE, LABEL, image, save_set, save_splits

pytest.importorskip("pyarrow")


def module(root: Path | str, **kwargs: Any) -> HFDatasetDataModule:
    data = HFDatasetDataModule(str(root), **{"image_size": 8, "num_workers": 0, "batch_size": 4} | kwargs)
    data.prepare_data()
    data.setup()
    return data


def reds(dataset: Any) -> list[int]:
    return [int(dataset[index]["image"][0, 0, 0]) for index in range(len(dataset))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_splits(tmp_path / "set", {"train": range(20), "validation": range(40, 46), "test": range(80, 88)})
    return tmp_path / "set"


def test_splits_labels_and_images(root: Path) -> None:
    data = module(root)
    assert data.class_names == CLASSES
    assert reds(data.train_dataset) == list(range(20))
    assert reds(data.val_dataset) == list(range(40, 46))
    assert reds(data.test_dataset) == list(range(80, 88))
    assert data.train_dataset.sample_name(17) == "train/17"
    seen = []
    for batch in data.train_dataloader():
        numbers = batch["image"][:, 0, 0, 0].tolist()
        assert [number % 2 for number in numbers] == batch["label"].tolist()
        seen += numbers
    assert sorted(seen) == list(range(20)) != seen


@pytest.mark.parametrize(
    "label", [{"feature": LABEL, "_type": "List"}, {"feature": LABEL, "_type": "Sequence"}, [LABEL]]
)
def test_lists_of_classes_are_several_labels(tmp_path: Path, label: Any) -> None:
    save_set(tmp_path, [image(number) for number in range(5)], [[0], [1, 0], [], None, [1]], label)
    data = module(tmp_path, val_fraction=0.0)
    assert (data.multi_label, data.class_names) == (True, CLASSES)
    assert data.unlabeled_dataset.labels.tolist() == [[1, 0], [1, 1], [0, 0], [-1, -1], [0, 1]]
    save_set(tmp_path, [image(number) for number in range(5)], [[0], [2], [], None, [1]], label)
    with pytest.raises(ValueError, match="has the label 2 in 'label', but 2 classes"):
        module(tmp_path)


def test_one_set_is_split_by_seed(tmp_path: Path) -> None:
    save_set(tmp_path, [image(number) for number in range(40)], [number % 2 for number in range(40)])
    parts = []
    for seed in (0, 0, 1):
        data = module(tmp_path, val_fraction=0.25, test_fraction=0.2, split_seed=seed)
        parts.append([reds(part) for part in (data.train_dataset, data.val_dataset, data.test_dataset)])
    assert parts[0] == parts[1] != parts[2]
    assert list(map(len, parts[0])) == [24, 8, 8]
    assert sorted(number for part in parts[0] for number in part) == list(range(40))
    assert module(tmp_path).train_dataset.sample_name(0).isdecimal()


def test_batches_match_files_in_folders(tmp_path: Path) -> None:
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for path in save_images(tmp_path / "folder" / name, 12, label, "jpg"):
            images.append({"bytes": path.read_bytes(), "path": path.name})
            labels.append(label)
    save_set(tmp_path / "set", images, labels)

    def batches(kind: Any, root: str, **kwargs: Any) -> list[dict[str, torch.Tensor]]:
        data = kind(str(tmp_path / root), image_size=8, train_image_size=10, batch_size=4, num_workers=0, **kwargs)
        data.prepare_data()
        data.setup()
        assert data.class_names == CLASSES
        return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]

    expected = batches(ImageFolderDataModule, "folder")
    for kwargs in ({}, {"cache": True}, {"cache": True}, {"on_error": "skip"}):
        found = batches(HFDatasetDataModule, "set", **kwargs)
        assert len(found) == len(expected) > 4
        for a, b in zip(expected, found, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(root: Path, workers: int) -> None:
    loader = module(root).train_dataloader()
    loader.sampler.set_epoch(3)
    whole = list(loader)
    loader = module(root, num_workers=workers).train_dataloader()
    loader.sampler.set_epoch(3)
    batches = iter(loader)
    first = [next(batches) for _ in range(2)]
    state = loader.state_dict()
    again = module(root, num_workers=workers).train_dataloader()
    again.load_state_dict(state)
    for a, b in zip(whole, [*first, *again], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_pickled_dataset_holds_no_images(root: Path) -> None:
    dataset = module(root).train_dataset
    content = pickle.dumps(dataset)
    assert image(3)["bytes"] not in content
    assert reds(pickle.loads(content)) == list(range(20))


def test_columns_are_chosen(tmp_path: Path) -> None:
    images, labels = [image(number) for number in range(8)], [number % 2 for number in range(8)]
    save_set(tmp_path, images, labels, **{"second": IMAGE})
    options = {"val_fraction": 0.0, "test_fraction": 0.0}
    with pytest.raises(ValueError, match=r"several columns of the type Image \(image, second\).*`image_column`"):
        module(tmp_path)
    assert reds(module(tmp_path, image_column="second", **options).train_dataset) == list(range(8))
    with pytest.raises(ValueError, match=r"image_column.*'imge'.*did you mean 'image'"):
        module(tmp_path, image_column="imge")
    save_set(tmp_path, images, ["b", "a", "b", None, "10", "9", "a", ""], {"dtype": "string", "_type": "Value"})
    data = module(tmp_path, label_column="label", **options)
    assert data.class_names == ["9", "10", "a", "b"]
    assert data.unlabeled_dataset.labels.tolist() == [3, 2, 3, -1, 1, 0, 2, -1]
    save_set(tmp_path, images, [0.5] * 8, {"dtype": "float32", "_type": "Value"})
    with pytest.raises(ValueError, match="holds float values: classes are"):
        module(tmp_path, label_column="label")


def test_images_without_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image(number) for number in range(8)]
    save_set(tmp_path, images, [-1, None, *[0, 1] * 3])
    data = module(tmp_path, val_fraction=0.0, test_fraction=0.0)
    assert (len(data.train_dataset), data.unlabeled_dataset.labels[:4].tolist()) == (6, [-1, -1, 0, 1])
    save_set(tmp_path, images, [0] * 8, {"dtype": "int64", "_type": "Value"})
    data = module(tmp_path, val_fraction=0.0, test_fraction=0.0)
    assert data.unlabeled_dataset.labels.tolist() == [-1] * 8
    assert "no column of the type ClassLabel, so no image has a label" in caplog.text
    assert "`label_column`: image, label" in caplog.text


def test_class_names_are_compared(root: Path) -> None:
    images = [image(40), image(41)]
    save_set(root / "validation", images, [0, 1], LABEL | {"names": ["dog", "cat"]})
    data = module(root)
    assert data.val_dataset is not None
    assert data.val_dataset.labels.tolist() == [1, 0]
    save_set(root / "validation", images, [0, 1], LABEL | {"names": ["cat", "fox"]})
    with pytest.raises(ValueError, match="different classes in 'label': only one of them has dog, fox"):
        module(root)
    save_set(root / "validation", images, [0, 2])
    with pytest.raises(ValueError, match="validation has the label 2 in 'label', but 2 classes"):
        module(root)
    save_set(root / "validation", images, [0, 1], LABEL | {"names": ["cat", "cat"]})
    with pytest.raises(ValueError, match="names the class 'cat' twice"):
        module(root)


def test_splits_of_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_splits(tmp_path, {"train": range(20), "dev": range(4), "extra": range(4), "predict": range(60, 63)})
    data = module(tmp_path)
    assert (len(data.train_dataset), len(data.val_dataset or ()), data.test_dataset) == (20, 4, None)
    assert reds(data.predict_dataset) == [60, 61, 62]
    assert "splits that are ignored: extra" in caplog.text


def test_paths_without_content(tmp_path: Path) -> None:
    paths = save_images(tmp_path / "files", 4)
    images = [{"bytes": None, "path": str(paths[0])}, {"bytes": None, "path": "files/01.png"}]
    images += [{"bytes": None, "path": "files/none.png"}, {"bytes": None, "path": "https://a/b.png"}, None, image(9)]
    save_set(tmp_path, images, [0, 1] * 3)
    data = module(tmp_path, val_fraction=0.0, test_fraction=0.0)
    read = data.train_dataset
    with Image.open(paths[1]) as second:
        assert read[1]["image"][:, 0, 0].tolist() == list(second.getpixel((0, 0)))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read[2]
    with pytest.raises(UnreadableImageError, match=r"/3 \(https://a/b\.png\): only its address is stored"):
        read[3]
    with pytest.raises(UnreadableImageError, match="/4: it is missing"):
        read[4]
    for _ in range(2):
        data = module(tmp_path, val_fraction=0.0, test_fraction=0.0, on_error="skip")
        assert [data.train_dataset.sample_name(k) for k in range(3)] == ["0", "1", "5"]
        assert len(data.train_dataset) == 3


def test_broken_image_is_named_or_skipped(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image(number) for number in range(20)]
    images[7] = {"bytes": b"no image", "path": "seven.png"}
    save_set(root / "train", images, [number % 2 for number in range(20)])
    with pytest.raises(UnreadableImageError, match=r"train/7 \(seven\.png\): it is not an image"):
        module(root).train_dataset[7]
    for _ in range(2):
        assert len(module(root, on_error="skip").train_dataset) == 19
    assert "train/7: it is not an image" in caplog.text


@pytest.mark.parametrize(
    ("how", "message"),
    [("cut", "truncated"), ("empty", "truncated"), ("gone", "not found, which state.json names"), ("text", "truncated"),
     ("header", "is broken")],
)  # fmt: skip
def test_error_names_broken_arrow_file(root: Path, how: str, message: str) -> None:
    path = root / "train" / "data-00001-of-00002.arrow"
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        parts = {"cut": content[:-200], "empty": b"", "text": b"a" * 2000, "header": b"\xff" * 400 + content[400:]}
        path.write_bytes(parts[how])
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data-00001-of-00002\.arrow .*{message}"):
        module(root)


def test_changed_file_stops_the_run(root: Path) -> None:
    data = module(root)
    save_set(root / "train", [image(number) for number in range(30)], [0, 1] * 15)
    with pytest.raises(OSError, match=r"data-00000-of-00002\.arrow has changed since the start of the run"):
        data.train_dataset[0]


def test_wrong_descriptions(root: Path) -> None:
    state = root / "train" / "state.json"
    good = state.read_text()
    for text, message in (
        ("{", "not valid JSON"), ("[" * 100_000, "not valid JSON"), ("[]", "no JSON object"), ("{}", "no Arrow files"),
        ('{"_data_files": [{"filename": "../../a.arrow"}]}', "outside its folder: '../../a.arrow'"),
    ):  # fmt: skip
        state.write_text(text)
        with pytest.raises(ValueError, match=message):
            module(root)
    state.write_text(good)
    (root / "train" / "dataset_info.json").write_text('{"features": null}')
    with pytest.raises(ValueError, match="describes no columns"):
        module(root)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "../x"]}')
    with pytest.raises(ValueError, match="names a folder outside it"):
        module(root)


def test_roots_that_are_no_saved_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = r'load_dataset\("uoft-cs/cifar10"\)\.save_to_disk\("FOLDER"\)'
    with pytest.raises(FileNotFoundError, match=rf"cifar10 not found: set `root`.*{command}"):
        module("uoft-cs/cifar10")
    with pytest.raises(FileNotFoundError, match=r'load_dataset\("NAME"\)'):
        module("a'; b/c")
    with pytest.raises(FileNotFoundError, match="was not written by save_to_disk"):
        module(tmp_path)
    stream = type("IterableDataset", (), {})()
    with pytest.raises(TypeError, match=r"root is a IterableDataset, .*a stream cannot be read by position"):
        HFDatasetDataModule(stream)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "lit_cv\[datasets\]"'):
        HFDatasetDataModule(str(tmp_path))


class Stopped(BaseException):
    """Ends a run without any handling."""


@pytest.mark.slow
def test_fit_validate_and_resume(root: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ["fit", "--config", "imagefolder_supervised", "--data", "HFDatasetDataModule", "--data.root", str(root)]
    sizes = ["--data.image_size", "16", "--data.train_image_size", "16", "--data.batch_size", "4"]
    quick = ["--model.backbone", "conv4", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
    run = [*recipe, *sizes, *quick, "--trainer.max_epochs", "2", "--checkpoint.every_n_steps", "2"]

    def stop(module: SupervisedModule) -> None:
        if module.global_step == 3:
            raise Stopped

    whole = main(run)
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedModule, "after_step", stop)
        with pytest.raises(Stopped):
            main(run)
    resumed = main(["fit", "--ckpt_path", "last"])
    assert whole is not None
    assert resumed is not None
    assert (whole.trainer.global_step, resumed.trainer.global_step) == (6, 6)
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    validated = main(["validate", "--ckpt_path", "last"])
    assert validated is not None
    assert float(validated.trainer.callback_metrics["val_acc"]) == float(whole.trainer.callback_metrics["val_acc"])


def test_folder_of_the_package_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)})
    columns = {"photo": [Image.new("RGB", (9, 9), (number, 0, 0)) for number in range(12)], "kind": [0, 1] * 6}
    whole = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict({"train": whole, "test": whole.select([3, 5])}).save_to_disk(tmp_path / "dict")
    whole.filter(lambda row: row["kind"] == 1).save_to_disk(tmp_path / "one", num_shards=2)
    data = module(tmp_path / "dict", val_fraction=0.0)
    assert (reds(data.train_dataset), reds(data.test_dataset), data.class_names) == (list(range(12)), [3, 5], CLASSES)
    data = module(tmp_path / "one", val_fraction=0.0, test_fraction=0.0)
    assert (reds(data.train_dataset), set(data.train_dataset.labels.tolist())) == ([1, 3, 5, 7, 9, 11], {1})
