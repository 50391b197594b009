import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

import datamodules
from datamodules import (
    CIFAR10DataModule,
    FashionMNISTDataModule,
    Flowers102DataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    OxfordIIITPetDataModule,
    STL10DataModule,
    SVHNDataModule,
    USPSDataModule,
)
from tests.datamodules.files import save_images

DOWNLOADED = [
    "CIFAR10DataModule", "CIFAR100DataModule", "FashionMNISTDataModule", "Flowers102DataModule", "MNISTDataModule",
    "OxfordIIITPetDataModule", "STL10DataModule", "SVHNDataModule", "USPSDataModule",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    for module in ("mnist", "cifar", "svhn", "stl10", "usps", "flowers102", "oxford_iiit_pet"):
        for function in ("download_and_extract_archive", "download_url"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", refuse, raising=False)


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.usefixtures("offline")
def test_error_names_root_without_download(name: str, tmp_path: Path) -> None:
    data = getattr(datamodules, name)(root=str(tmp_path / "here"))
    with pytest.raises(FileNotFoundError, match=r"not found in .*here.*could not be downloaded.*`root`"):
        data.prepare_data()
    for stage in (
        lambda: getattr(datamodules, name)(root=str(tmp_path), download=False).prepare_data(),
        lambda: getattr(datamodules, name)(root=str(tmp_path)).setup(),
    ):
        with pytest.raises(FileNotFoundError, match=r"not found in .*`root`"):
            stage()


class Fake:
    """A small torchvision dataset that must be downloaded first."""

    names: tuple[str, ...] = ("data", "labels")
    shape: tuple[int, ...] = (3, 4, 4)
    downloads: list[str]

    def __init__(self, root: str, split: str = "", train: bool | None = None, download: bool = False) -> None:
        split = split or ("train" if train else "test")
        if download:
            (Path(root) / split).touch()
            self.downloads.append(split)
        if not (Path(root) / split).exists():
            raise RuntimeError("not found")
        count = {"train+unlabeled": 30, "train": 20, "test": 6}[split]
        labels = np.where(np.arange(count) < 20, np.arange(count) % 2, -1)
        images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, *self.shape)).copy()
        setattr(self, self.names[0], images)
        setattr(self, self.names[1], labels.astype(np.uint8).astype(np.int8) if count == 30 else labels.tolist())


def fake(monkeypatch: pytest.MonkeyPatch, source: str, **attributes: Any) -> type[Fake]:
    kind = type("Kind", (Fake,), {"downloads": [], **attributes})
    monkeypatch.setattr(torchvision.datasets, source, kind)
    return kind


def test_download_happens_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = fake(monkeypatch, "SVHN")
    for _ in range(2):
        data = SVHNDataModule(root=str(tmp_path / "new"), batch_size=4)
        data.prepare_data()
        data.setup()
    assert kind.downloads == ["train", "test"]
    assert data.class_names == ["0", "1"]
    assert (len(data.train_dataset), len(data.val_dataset or []), len(data.test_dataset or [])) == (18, 2, 6)


def test_channels_go_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "CIFAR10", names=("data", "targets"), shape=(4, 5, 3), classes=["x", "y"])
    data = CIFAR10DataModule(root=str(tmp_path))
    data.prepare_data()
    data.setup()
    assert data.train_dataset[0]["image"].shape == (3, 4, 5)
    assert data.class_names == ["x", "y"]


def test_stl10_unlabeled_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "STL10")
    data = STL10DataModule(root=str(tmp_path), val_fraction=0.2)
    data.prepare_data()
    data.setup()
    assert (len(data.train_dataset), len(data.unlabeled_dataset), len(data.val_dataset or [])) == (16, 26, 4)
    assert int((data.unlabeled_dataset.labels < 0).sum()) == 10


@pytest.mark.parametrize(
    ("source", "kind", "files"),
    [("Flowers102", Flowers102DataModule, "_image_files"), ("OxfordIIITPet", OxfordIIITPetDataModule, "_images")],
)
def test_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, kind: Any, files: str) -> None:
    class Photographs:
        def __init__(self, root: str, split: str, download: bool) -> None:
            setattr(self, files, save_images(tmp_path / "set" / split, 20, suffix="jpg"))
            self._labels, self.classes = [index % 2 for index in range(20)], ["x", "y"]

    monkeypatch.setattr(torchvision.datasets, source, Photographs)
    data = kind(root=str(tmp_path), image_size=8, batch_size=4, num_workers=0)
    data.prepare_data()
    data.setup()
    assert len(data.val_dataset) == (20 if source == "Flowers102" else 2)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 8, 8)
    assert data.test_dataset.sample_name(3) == "set/test/03.jpg"
    assert data.class_names == ["x", "y"]


# Published mean and standard deviation of all training images of the two datasets.
PUBLISHED = {FashionMNISTDataModule: (0.2860, 0.3530), MNISTDataModule: (0.1307, 0.3081)}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_fashion_mnist_and_mnist(data_root: Path, kind: Any) -> None:
    data = kind(root=str(data_root), download=False, val_fraction=0.0)
    data.prepare_data()
    data.setup()
    assert (len(data.train_dataset), len(data.test_dataset)) == (60000, 10000)
    assert (*(data.mean or ()), *(data.std or ())) == pytest.approx(PUBLISHED[kind], abs=1e-4)
    source = getattr(torchvision.datasets, data.source)(str(data_root), train=False)
    batch = data.test_dataset.__getitems__([0, 77, 9999])
    assert torch.equal(batch["image"][:, 0], source.data[[0, 77, 9999]])
    assert torch.equal(batch["label"], source.targets[[0, 77, 9999]])
    assert data.class_names[0] in ("T-shirt/top", "0")


@pytest.mark.slow
def test_usps_in_either_folder(data_root: Path) -> None:
    data = USPSDataModule(root=str(data_root), download=False)
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset or []), len(data.test_dataset or [])) == (6562, 729, 2007)
    assert data.image_size == (16, 16)
    assert USPSDataModule(root=str(data_root / "USPS")).folder == data.folder


@pytest.mark.slow
def test_cifar10_as_jpeg_files(data_root: Path) -> None:
    data = ImageFolderDataModule(str(data_root / "cifar10_jpeg"), image_size=32, num_workers=0)
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset or []), len(data.test_dataset or [])) == (9000, 1000, 2000)
    batch = next(iter(data.train_dataloader()))
    for image, index in zip(batch["image"][:8], batch["index"][:8].tolist(), strict=True):
        path = data_root / "cifar10_jpeg" / data.train_dataset.sample_name(index)
        assert np.abs(np.asarray(Image.open(path)).transpose(2, 0, 1).astype(int) - image.numpy()).max() <= 1
        assert path.parent.name == data.class_names[int(data.train_dataset.labels[index])]


@pytest.mark.learns
def test_a_linear_classifier_learns_the_labels(data_root: Path, seed: int) -> None:
    """Images and labels match: least squares on 10,000 images reaches its known accuracy."""
    data = FashionMNISTDataModule(root=str(data_root), download=False, labels_per_class=1000, label_seed=seed)
    data.setup()
    train = data.train_dataset.__getitems__(range(len(data.train_dataset)))
    test = data.test_dataset.__getitems__(range(2000)) if data.test_dataset else {}
    features = [torch.cat([b["image"].flatten(1) / 255, torch.ones(len(b["label"]), 1)], 1) for b in (train, test)]
    target = torch.nn.functional.one_hot(train["label"], 10).float()
    gram = features[0].T @ features[0] + 10 * torch.eye(785)
    answer = (features[1] @ torch.linalg.solve(gram, features[0].T @ target)).argmax(1)
    assert math.isclose(float((answer == test["label"]).float().mean()), 0.81, abs_tol=0.03)
