from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from datamodules import BaseDataModule, DigitsDataModule, InMemoryDataset


def images(labels: Any, channels: int = 1) -> InMemoryDataset:
    count = len(labels)
    pixels = np.random.RandomState(0).randint(0, 256, (count, channels, 4, 5)).astype(np.uint8)
    return InMemoryDataset(pixels, labels, ["a", "b", "c"])


class Given(BaseDataModule):
    """A DataModule with given datasets."""

    def __init__(self, makers: dict[str, Callable[[], InMemoryDataset]], **kwargs: Any) -> None:
        L.LightningDataModule.__init__(self)
        super().__init__(**kwargs)
        self.makers = makers
        self.loads: list[str] = []

    def load(self, split: str) -> InMemoryDataset | None:
        self.loads.append(split)
        return self.makers[split]() if split in self.makers else None


LABELS = [0] * 50 + [1] * 30 + [2] * 20


def module(labels: Any = LABELS, **kwargs: Any) -> Given:
    data = Given({"train": lambda: images(labels)}, **kwargs)
    data.setup("fit")
    return data


def test_attributes() -> None:
    data = module(batch_size=8)
    assert (data.num_classes, data.class_names) == (3, ["a", "b", "c"])
    assert (data.in_channels, data.image_size, data.multi_label) == (1, (4, 5), False)
    assert data.class_counts().tolist() == [45, 27, 18]
    assert data.val_dataset is not None
    assert torch.bincount(data.val_dataset.labels).tolist() == [5, 3, 2]
    pixels = np.stack([data.train_dataset[i]["image"].numpy() for i in range(90)]) / 255
    assert data.mean == pytest.approx([pixels.mean()])
    assert data.std == pytest.approx([pixels.std()])


def test_statistics_per_channel() -> None:
    source = images([0] * 9, channels=3)
    mean, std = source.statistics() or ((), ())
    assert mean == pytest.approx((source.images / 255).mean((0, 2, 3)))
    assert std == pytest.approx((source.images / 255).std((0, 2, 3)))


def test_data_is_loaded_once() -> None:
    data = module()
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    assert data.loads == ["train", "val", "test", "predict"]


def test_given_validation_split_is_used() -> None:
    data = Given({"train": lambda: images(LABELS), "val": lambda: images([0, 1, 2])})
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset or [])) == (100, 3)


@pytest.mark.parametrize("kwargs", [{"labels_per_class": 4}, {"label_fraction": 0.1}])
def test_hidden_labels(kwargs: dict[str, Any]) -> None:
    data = module(val_fraction=0.0, **kwargs)
    expected = [4, 4, 4] if "labels_per_class" in kwargs else [5, 3, 2]
    assert data.class_counts().tolist() == expected
    assert len(data.unlabeled_dataset) == 100
    known = data.unlabeled_dataset.labels >= 0
    assert int(known.sum()) == sum(expected)
    assert torch.equal(data.unlabeled_dataset.labels[known], torch.tensor(LABELS)[known])
    same = module(val_fraction=0.0, **kwargs)
    assert np.array_equal(same.train_dataset.rows, data.train_dataset.rows)
    other = module(val_fraction=0.0, split_seed=1, **kwargs)
    assert not np.array_equal(other.train_dataset.rows, data.train_dataset.rows)


@pytest.mark.parametrize(
    ("per_class", "said"),
    [(18, ""), (19, "1 of 3 classes have fewer labels (the fewest: 18)"), (99, "all classes have")],
)
def test_warns_about_classes_with_fewer_labels(caplog: pytest.LogCaptureFixture, per_class: int, said: str) -> None:
    module(labels_per_class=per_class)
    assert said in caplog.text
    assert ("`labels_per_class=" in caplog.text) == bool(said)


def test_module_decides_about_unlabeled_images() -> None:
    data = module([*LABELS, *[-1] * 40], val_fraction=0.0, batch_size=10)
    assert len(data.train_dataloader()) == 10

    class Learner(L.LightningModule):
        uses_unlabeled = True

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.labels: list[int] = []

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            self.labels += batch["label"].tolist()
            return self.layer(batch["image"].float().mean((1, 2, 3))[:, None]).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    learner = Learner()
    quick: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quick).fit(learner, data)
    assert sorted(learner.labels) == sorted([*LABELS, *[-1] * 40])


def test_multi_label() -> None:
    labels = np.random.RandomState(1).randint(0, 2, (40, 3))
    data = module(labels, val_fraction=0.25, label_fraction=0.5)
    assert data.multi_label
    assert data.train_dataset.labels.dtype == torch.float32
    assert (len(data.train_dataset), len(data.unlabeled_dataset), len(data.val_dataset or [])) == (15, 30, 10)
    assert torch.equal(data.class_counts(), data.train_dataset.labels.sum(0).long())
    with pytest.raises(ValueError, match="use label_fraction"):
        module(labels, labels_per_class=2)


@pytest.mark.parametrize(("batch_size", "sizes"), [(30, [30, 30, 30]), (40, [40, 40]), (90, [90]), (200, [90])])
def test_no_epoch_without_a_step(batch_size: int, sizes: list[int]) -> None:
    data = module(batch_size=batch_size)
    assert [len(batch["label"]) for batch in data.train_dataloader()] == sizes
    assert sum(len(batch["label"]) for batch in data.val_dataloader()) == 10


def test_batches_are_contiguous_uint8() -> None:
    batch = next(iter(module(batch_size=16).train_dataloader()))
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous()
    assert batch["label"].dtype == batch["index"].dtype == torch.int64


def test_index_finds_the_sample() -> None:
    data = module(batch_size=16)
    batch = next(iter(data.train_dataloader()))
    for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
        assert torch.equal(image, data.train_dataset[index]["image"])
        row = int(data.train_dataset.sample_name(index))
        assert torch.equal(image, images(LABELS)[row]["image"])


def test_evaluation_loaders(caplog: pytest.LogCaptureFixture) -> None:
    data = Given({"train": lambda: images(LABELS), "test": lambda: images([0, 1])}, val_fraction=0.0)
    data.setup()
    assert data.val_dataloader() == []
    assert "There are no validation images, " in caplog.text
    assert "Increase `val_fraction`" in caplog.text
    assert [batch["index"].tolist() for batch in data.test_dataloader()] == [[0, 1]]
    assert len(data.predict_dataloader().dataset) == 2
    with pytest.raises(ValueError, match="no test images"):
        module().test_dataloader()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_fraction": 1.0}, r"val_fraction=1.0.*\[0, 1\)"),
        ({"label_fraction": 0.0}, "label_fraction=0.0"),
        ({"labels_per_class": 0}, "labels_per_class=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"labels_per_class": 1, "label_fraction": 0.5}, "remove one of them"),
    ],
)
def test_arguments_out_of_range(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**kwargs)


def test_images_must_be_uint8() -> None:
    with pytest.raises(TypeError, match="float32"):
        InMemoryDataset(torch.zeros(1, 1, 2, 2), [0])
    with pytest.raises(ValueError, match="3 labels"):
        InMemoryDataset(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), [0, 1, 2])


def test_hyperparameters_are_those_given() -> None:
    data = DigitsDataModule(image_size=16, batch_size=5)
    assert (data.hparams["image_size"], data.hparams["batch_size"]) == (16, 5)
    data.setup()
    assert data.image_size == (16, 16)


def test_digits_match_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = DigitsDataModule()
    data.setup()
    source = load_digits()
    rows = np.concatenate([d.rows for d in (data.train_dataset, data.val_dataset, data.test_dataset) if d])
    assert np.array_equal(np.sort(rows), np.arange(1797))
    test = data.test_dataset
    assert test is not None
    for index in (0, 100):
        sample = test[index]
        assert torch.allclose(
            sample["image"][0] / 255, torch.from_numpy(source.images[test.rows[index]] / 16).float(), atol=2e-3
        )
        assert sample["label"] == source.target[test.rows[index]]
    counts, whole = torch.bincount(test.labels), np.bincount(source.target)
    assert np.abs(counts.numpy() - 0.2 * whole).max() < 1


@pytest.mark.draws
def test_figure_and_summary(tmp_path: Path) -> None:
    data = DigitsDataModule(labels_per_class=5)
    data.show_batch("test", n=3, path=tmp_path / "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 1000
    assert "1,294 train, 144 val, 359 test" in data.summary()
    assert "(50 of train with labels)" in data.summary()
    with pytest.raises(ValueError, match="'predict'"):
        data.show_batch("predict")


class Pair(BaseDataModule):
    """Two training loaders of different lengths, as in domain adaptation."""

    def load(self, split: str) -> InMemoryDataset | None:
        return images([0] * 20) if split == "train" else None

    def train_dataloader(self) -> CombinedLoader:
        target = Given({"train": lambda: images([0] * 12)}, batch_size=4, val_fraction=0.0)
        target.setup()
        return CombinedLoader(
            {"source": super().train_dataloader(), "target": target.train_dataloader()}, "max_size_cycle"
        )


class Watcher(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: dict[int, list[list[int]]] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen[self.trainer.global_step] = [batch[name]["index"].tolist() for name in ("source", "target")]
        return self.layer(torch.ones(1, 1)).mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.default_root_dir:
            self.trainer.save_checkpoint(Path(self.trainer.default_root_dir) / f"{self.trainer.global_step}.ckpt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_two_loaders_of_different_lengths_resume(tmp_path: Path) -> None:
    def run(folder: Path, ckpt_path: Path | None = None) -> dict[int, list[list[int]]]:
        watcher = Watcher()
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(watcher, Pair(batch_size=4, val_fraction=0.0), ckpt_path=str(ckpt_path) if ckpt_path else None)
        return watcher.seen

    whole = run(tmp_path / "whole")
    assert len(whole) == 10
    assert whole[3][1] != whole[0][1]  # the second pass of an epoch has another order
    for step in (2, 3, 4, 5, 8):
        resumed = run(tmp_path / "again", tmp_path / "whole" / f"{step}.ckpt")
        assert resumed == {key: value for key, value in whole.items() if key >= step}
