"""Two datasets with the same classes, only one of which provides labels for training."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.base import BaseDataModule, Split
from datamodules.checks import check
from datamodules.dataset import ImageDataset
from datamodules.domain_pairs import SOURCE, TARGET, ConvertedDataset, PairDataset, PairSampler
from datamodules.files import some_names
from datamodules.loader import ResumableLoader
from datamodules.split_record import state_in_checkpoint
from lit_cv.contracts import as_module, module_of
from lit_cv.errors import argument, within
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DomainAdaptationDataModule"]

log = logging.getLogger("lit_cv")


class DomainAdaptationDataModule(BaseDataModule):
    """Combines a labeled source domain with a target domain whose labels are never used in training.

    A training batch is `{"source": {"image", "label", "index"}, "target": {"image", "index"}}`, with `batch_size`
    images of each domain. An epoch is one pass over the larger domain, while the smaller one is repeated in new orders
    (shorten epochs with `limit_train_batches` of the Trainer). Validation and test use two loaders, target and source,
    whose batches additionally have `domain` (N,) int64, 0 for the source and 1 for the target. Both domains have the
    same channels and size, and are normalized by the mean and standard deviation over both. Conversions are logged;
    masks and boxes are dropped.

    `train_dataset` contains the labeled source images, `unlabeled_dataset` the target's training images with hidden
    labels; `val_dataset`, `test_dataset` and `predict_dataset` are those of the target. Modules that do not adapt (not
    `expects_domains`) train only on the source, or on the target's images if they learn without labels, and are
    evaluated on the target: `SupervisedModule` is the usual baseline.

    Each DataModule holds out its validation images from its training images, stratified by class. The target's labels
    are for reporting, not for model selection: see the module's `monitor`.

    Args:
        source: DataModule of the labeled images. Its `batch_size` and `num_workers` are not used; its `balance`
            determines how its images are drawn.
        target: DataModule of the images to adapt to, with the same classes in the same order, or without classes.
        batch_size: Images of each domain in a batch on each device.
        num_workers: Worker processes that read images; `None` as in `BaseDataModule`.
        image_size: Side of the images in pixels; `None` uses the larger one of both domains.
        channels: 1 for gray, 3 for color; `None` uses the larger number of both domains.

    Raises:
        ValueError: If the classes of the domains differ, or images have several labels.

    Example:
        >>> from datamodules import ShapesDataModule
        >>> source, target = (ShapesDataModule(32, 200, domain=domain) for domain in ("filled", "outlined"))
        >>> data = DomainAdaptationDataModule(source, target, batch_size=8)
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))
        >>> sorted(batch["source"]), sorted(batch["target"]), batch["target"]["image"].shape
        (['image', 'index', 'label'], ['image', 'index'], torch.Size([8, 3, 32, 32]))
    """

    def __init__(
        self,
        source: BaseDataModule,
        target: BaseDataModule,
        batch_size: int = 64,
        num_workers: int | None = None,
        image_size: int | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        check(self, "image_size", image_size, image_size is None or image_size >= 1, "at least 1, or null")
        check(self, "channels", channels, channels in (None, 1, 3), "1 or 3, or null")
        if source is target:
            raise ValueError("source and target are the same DataModule: use one for each domain.")
        for name, part in (("source", source), ("target", target)):
            if not isinstance(part, BaseDataModule):
                raise TypeError(f"{name} is a {type(part).__name__}, but must be a DataModule of images.")
        with within("target"):
            check(target, "balance", target.balance, not target.balance, "0: the target's labels are not used")
        self.source, self.target, self.balance = source, target, source.balance
        for name in ("val_fraction", "split_seed", "labels_per_class", "label_fraction", "classes", "balance"):
            self.hparams.pop(name, None)  # each domain has its own
        # Hyperparameters are stored in checkpoints, which must not contain objects.
        self.hparams.update(source=_description(source), target=_description(target))
        self.source_val_dataset: ImageDataset | None = None
        self.source_test_dataset: ImageDataset | None = None

    def prepare_data(self) -> None:
        """Download missing data of both domains."""
        for name, part in (("source", self.source), ("target", self.target)):
            with within(name):
                part.prepare_data()

    def load(self, split: Split) -> ImageDataset | None:
        """Return the target's images of a split, unconverted."""
        self.target.setup()
        return self.target.unlabeled_dataset if split == "train" else getattr(self.target, f"{split}_dataset")

    def setup(self, stage: str | None = None) -> None:
        """Load both domains, check that they are compatible, and convert their images to a common format."""
        if self._is_set_up:
            return
        self._restore_parts(state_in_checkpoint(self.checkpoint_path, type(self).__qualname__))
        for name, part in (("source", self.source), ("target", self.target)):
            with within(name):
                part.setup(stage)
        self._check_classes()
        self.class_names, self.num_classes = self.source.class_names, self.source.num_classes
        self._choose_format()
        self.train_dataset = self._converted(self.source.train_dataset, SOURCE)
        images = self._converted(self.target.unlabeled_dataset, TARGET)
        self.unlabeled_dataset = images.subset(range(len(images)), torch.full((len(images),), -1))
        self.val_dataset = self._evaluated(self.target.val_dataset, TARGET)
        self.test_dataset = self._evaluated(self.target.test_dataset, TARGET)
        self.predict_dataset = self._evaluated(self.target.predict_dataset, TARGET)
        self.source_val_dataset = self._evaluated(self.source.val_dataset, SOURCE)
        self.source_test_dataset = self._evaluated(self.source.test_dataset, SOURCE)
        self.mean, self.std = _pooled(self.train_dataset.statistics(), self.unlabeled_dataset.statistics())
        self._is_set_up = True

    def train_dataloader(self) -> Any:
        """Return the loader of pairs, or of one domain for a module that does not adapt."""
        if not self._pairs_domains():
            return super().train_dataloader()
        sizes = len(self.train_dataset), len(self.unlabeled_dataset)
        if min(sizes) == 0:
            raise ValueError(f"there are {sizes[0]} labeled source and {sizes[1]} target images: both are needed.")
        rank, world_size = self._rank_and_world_size()
        drop_last = max(sizes) // world_size >= self.batch_size
        dataset = PairDataset(self.train_dataset, self.unlabeled_dataset)
        classes = self._sampled_classes(self.train_dataset) if self.balance else None
        sampler = PairSampler(sizes, self._seed, world_size, rank, drop_last, classes, self.balance)
        return ResumableLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, **self._options(dataset)
        )

    def val_dataloader(self) -> Any:
        """Return the loaders of target and source validation images."""
        loaders = self._both(self.val_dataset, self.source_val_dataset)
        if not loaders:
            with within("target"):
                self.target._warn_no_validation()
        return loaders

    def test_dataloader(self) -> Any:
        """Return the loaders of target and source test images."""
        if self.test_dataset is None:
            return super().test_dataloader()  # raises the error
        return self._both(self.test_dataset, self.source_test_dataset)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the training order and the split of each image in both domains, for checkpoints."""
        return {**super().state_dict(), "source": self.source.state_dict(), "target": self.target.state_dict()}

    def restore_splits(self, state: Mapping[str, Any]) -> None:
        """Restore the splits of both domains from `state_dict`; repeat `setup` if they differ from the current ones."""
        if not self._is_set_up:
            self._restore_parts(state)
            return
        before = self.source.train_dataset, self.target.train_dataset
        self._restore_parts(state)
        if (self.source.train_dataset, self.target.train_dataset) == before:
            return
        renumbered, self._renumbered = self._renumbered, []
        self._is_set_up = False
        self.setup("validate")
        for arguments in renumbered:
            self.renumber_classes(*arguments)

    def _restore_parts(self, state: Mapping[str, Any]) -> None:
        for name, part in (("source", self.source), ("target", self.target)):
            if isinstance(inner := state.get(name), Mapping):
                part.restore_splits(inner)

    def show_batch(self, split: Split = "train", n: int = 16, path: str | Path | None = None) -> "Figure":
        """Draw images of both domains with their labels, the source first.

        Args:
            split: Split of the images.
            n: Maximum number of images.
            path: PNG file to write.
        """
        from lit_cv.figures import image_grid, label_titles, render, save_png

        self.prepare_data()
        self.setup()
        parts: dict[str, tuple[ImageDataset | None, ...]] = {
            "train": (self.train_dataset, self.unlabeled_dataset),
            "val": (self.source_val_dataset, self.val_dataset),
            "test": (self.source_test_dataset, self.test_dataset),
            "predict": (self.predict_dataset,),
        }
        datasets = [part for part in parts[split] if part is not None and len(part)]
        if not datasets or n < len(datasets):
            raise ValueError(f"{type(self).__name__} has no {split!r} images to show (n={n}).")
        random = np.random.RandomState(0)
        batches = [part.__getitems__(random.permutation(len(part))[: n // len(datasets)].tolist()) for part in datasets]
        titles = [title for batch in batches for title in label_titles(batch["label"], self.class_names)]
        images = torch.cat([batch["image"] for batch in batches])
        figure = image_grid(images, titles, heading=f"{_name(self.source)} → {_name(self.target)}: {split}")
        if path is not None:
            save_png(render(figure), path)
        return figure

    def summary(self) -> str:
        """Return the sizes of the splits of both domains, the classes and the image size, in a few lines."""
        parts = [f"{name}: {part.summary()}" for name, part in (("source", self.source), ("target", self.target))]
        self.setup()
        height, width = _side_lengths(self)
        return "\n".join([*parts, f"together: {self.in_channels} x {height} x {width} pixels"])

    def _pairs_domains(self) -> bool:
        """Return whether to provide batches of both domains: for a module that adapts, or without a module."""
        module = module_of(self.trainer)
        return module is None or as_module(module).expects_domains

    def _both(self, target: ImageDataset | None, source: ImageDataset | None) -> list[Any]:
        parts = (target, source) if self._pairs_domains() else (target,)
        return [self._evaluation_loader(part) for part in parts if part is not None]

    def _check_classes(self) -> None:
        source, target = self.source, self.target
        if source.multi_label or target.multi_label:
            raise ValueError("domain adaptation needs one label per image, but these images have several.")
        if not source.num_classes:
            raise ValueError(f"the source {_name(source)} has no classes to learn.")
        if target.class_names and target.class_names != source.class_names:
            here, there = set(source.class_names), set(target.class_names)
            only = [
                f"only the {name} has {some_names(sorted(classes))}"
                for name, classes in (("source", here - there), ("target", there - here))
                if classes
            ]
            raise ValueError(
                f"the classes differ: the source ({_name(source)}) has {_listed(source.class_names)}, the target "
                f"({_name(target)}) has {_listed(target.class_names)}; {', '.join(only) or 'their order differs'}. "
                f"Choose and order them with {argument('source.classes', self)} and {argument('target.classes', self)}."
            )

    def _choose_format(self) -> None:
        source, target = self.source, self.target
        self.in_channels = self.hparams["channels"] or max(source.in_channels, target.in_channels)
        side = self.hparams["image_size"]
        sizes = [_side_lengths(part) for part in (source, target)]
        common = max(sizes, key=math.prod) if side is None else (side, side)
        self.image_size = common
        for name, part, size in zip(("source", "target"), (source, target), sizes, strict=True):
            before = (part.in_channels, *size)
            if before != (self.in_channels, *common):
                log.info(
                    "The %s's images (%s) are converted from %d x %d x %d to %d x %d x %d.",
                    name, _name(part), *before, self.in_channels, *common,
                )  # fmt: skip

    def _converted(self, dataset: ImageDataset, domain: int) -> ConvertedDataset:
        return ConvertedDataset(dataset, self.in_channels, _side_lengths(self), domain)

    def _evaluated(self, dataset: ImageDataset | None, domain: int) -> ConvertedDataset | None:
        return None if dataset is None else self._converted(dataset, domain)


def _description(datamodule: BaseDataModule) -> dict[str, Any]:
    """Return the configuration of a DataModule as plain values."""
    cls = type(datamodule)
    arguments = {name: value for name, value in datamodule.hparams.items() if not name.startswith("_")}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _name(datamodule: BaseDataModule) -> str:
    return type(datamodule).__name__.removesuffix("DataModule")


def _side_lengths(datamodule: BaseDataModule) -> tuple[int, int]:
    """Return the common height and width of the images."""
    if datamodule.image_size is None:
        raise ValueError(f"the images of {_name(datamodule)} have several sizes: set its image_size.")
    return datamodule.image_size


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({printable(', '.join(names[:10]), lines=False)}{', ...' if len(names) > 10 else ''})"


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def _pooled(source: Statistics | None, target: Statistics | None) -> Statistics | tuple[None, None]:
    """Return mean and standard deviation over both domains with equal weights."""
    if source is None or target is None:
        return None, None
    (means, stds), (other_means, other_stds) = source, target
    mean = tuple((a + b) / 2 for a, b in zip(means, other_means, strict=True))
    squares = [(a**2 + s**2 + b**2 + t**2) / 2 for a, s, b, t in zip(means, stds, other_means, other_stds, strict=True)]
    return mean, tuple(math.sqrt(max(square - m**2, 0.0)) for square, m in zip(squares, mean, strict=True))
