"""What all DataModules share: splits, hidden labels, loaders, pictures."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.balance import BalancedSampler
from datamodules.checks import check
from datamodules.classes import choose_classes
from datamodules.dataset import ImageDataset
from datamodules.domain_pairs import PairDataset
from datamodules.loader import EpochSampler, ResumableLoader, loader_options
from datamodules.recorded_splits import RecordedSplits
from datamodules.splits import Positions, classes_with_fewer
from lit_cv.contracts import Data, as_module, module_of
from lit_cv.errors import VoidOptionError, argument, setting
from lit_cv.renamed_arguments import use_new_names
from lit_cv.trust import names_of_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BaseDataModule", "Split"]

log = logging.getLogger("lit_cv")

Split = Literal["train", "val", "test", "predict"]

_OTHERS: tuple[Split, ...] = ("val", "test", "predict")


class BaseDataModule(RecordedSplits, ABC):
    """Base of every DataModule. A subclass implements `load`, and `prepare_data` where something is downloaded.

    Batches are dicts: `image` (N, C, H, W) uint8, `label` (N,) int64 or (N, K) float32 of 0 and 1 (several labels an
    image; in training also shares of one label, whose rows sum to 1), and `index` (N,), the position in the dataset;
    where they exist `boxes` and `box_labels`, lists of (k, 4) float32 corners in pixels and (k,) int64 classes, and
    `mask` (N, H, W) int64, 255 where unknown. The training order is a function of (seed, epoch), and a run can be
    resumed in the middle of an epoch. Splits and the choice of labels are the same on every machine.

    Args:
        batch_size: Images in a batch, on each device.
        num_workers: Processes that read images; `None` takes none for images in memory, otherwise one a core of
            this process's share, at most 8.
        val_fraction: Share of the training images held out for validation where the source has no validation
            split, each class in proportion; in [0, 1).
        split_seed: Seed of the splits.
        labels_per_class: Labels of each class that training keeps; the other images stay available, without
            labels, to modules that learn from them. `None` keeps all.
        label_fraction: Share of the labels that training keeps, each class in proportion; in (0, 1].
        label_seed: Seed of the choice of labels; `None` takes `split_seed`.
        classes: Classes to keep, by name, or by number (from 0) where no name is a number; labels count them in this
            order. `None` keeps all.
        balance: How far training draws the classes equally often: 0 draws every image once an epoch, 1 all classes
            equally often, and between them a class of n images gets a share proportional to n^(1 - balance). Epochs
            have the same length; images without a label are drawn once. An image with several labels counts as the
            rarest of them, and one without image labels as the rarest class of its boxes.

    Attributes:
        train_dataset: Training images with labels.
        unlabeled_dataset: All training images, the labels that are hidden or unknown as -1.
        val_dataset: Validation images, `None` where there are none; likewise `test_dataset` and `predict_dataset`.
        num_classes: Number of classes.
        class_names: Their names.
        box_classes: Names of the classes of `box_labels`, empty where there are no boxes.
        mask_classes: Names of the values of `mask` from 0, empty where there are no masks.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels, `None` where they differ from batch to batch.
        multi_label: Whether an image has several labels, `None` where images have none.
        mean: Mean of each channel in [0, 1] units over the training images, `None` where it is unknown.
        std: Likewise the standard deviation.

    Raises:
        ValueError: If an argument is out of its range.
    """

    in_channels: int = 3
    multi_label: bool | None = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        labels_per_class: int | None = None,
        label_fraction: float | None = None,
        label_seed: int | None = None,
        classes: list[int | str] | None = None,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        use_new_names(type(self), self.hparams)
        check(self, "batch_size", batch_size, batch_size >= 1, "at least 1")
        check(self, "num_workers", num_workers, num_workers is None or num_workers >= 0, "at least 0, or null")
        check(self, "val_fraction", val_fraction, 0 <= val_fraction < 1, "a share in [0, 1)")
        check(
            self, "labels_per_class", labels_per_class, labels_per_class is None or labels_per_class >= 1, "at least 1"
        )
        check(
            self,
            "label_fraction",
            label_fraction,
            label_fraction is None or 0 < label_fraction <= 1,
            "a share in (0, 1]",
        )
        check(self, "balance", balance, 0 <= balance <= 1, "a number from 0 to 1")
        if labels_per_class is not None and label_fraction is not None:
            both = "labels_per_class and label_fraction were both given: leave one of them out"
            raise VoidOptionError(
                self, "labels_per_class", labels_per_class, both, others=("label_fraction",), text=f"{both}."
            )
        self.batch_size, self.balance = batch_size, balance
        self.num_classes: int | None = None
        self.class_names: list[str] = []
        self.box_classes: list[str] = []
        self.mask_classes: list[str] = []
        self.image_size: tuple[int, int] | None = (0, 0)
        self.val_dataset: ImageDataset | None = None
        self.test_dataset: ImageDataset | None = None
        self.predict_dataset: ImageDataset | None = None
        self._seed: int | None = None

    @abstractmethod
    def load(self, split: Split) -> ImageDataset | None:
        """Return the images of a split, `None` where the source has none (never for "train")."""

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Return the images of a split as they are to be read, once the splits are made; here unchanged."""
        return dataset

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them, once."""
        if self._is_set_up:
            return
        train = self._load("train")
        if train is None or len(train) == 0:
            raise ValueError(f"{type(self).__name__} found no training images.")
        h = self.hparams
        others = {split: self._load(split) for split in _OTHERS}
        given = self._held_out
        if given is not None or (others["val"] is None and h["val_fraction"] > 0):
            kept, held = (
                self.division.hold_out(train, "val", h["val_fraction"]) if given is None else _apart(len(train), given)
            )
            others["val"] = train.subset(held) if len(held) else None
            train = train.subset(kept)
        parts = {"train": train, **{split: part for split in ("val", "test") if (part := others[split]) is not None}}
        parts = self.division.separate(parts)
        labeled = self.division.keep_labels(parts["train"])
        self._parts, self._labeled = parts, labeled
        self.division.report_changes(parts)
        if stage in (None, "fit"):
            self.division.report_conflicts(parts["train"])
            self.division.report_copies(parts)
        train = self.finish(parts["train"], "train")
        for split, dataset in others.items():
            # what is measured on has one class an image, whatever training has
            setattr(self, f"{split}_dataset", None if dataset is None else self.finish(dataset.hard_labels(), split))
        self.train_dataset = self.unlabeled_dataset = train
        if len(labeled) < len(train):
            self.train_dataset = train.subset(labeled)
            self.unlabeled_dataset = train.hide_labels(labeled)
        self._describe(train)
        self._tell(len(labeled))
        if h["labels_per_class"] is not None:
            self._tell_few(*classes_with_fewer(train.strata, h["labels_per_class"]))
        self._is_set_up = True

    def training_pool(self) -> ImageDataset:
        """Return the training images before any are held out: what cross-validation divides into folds."""
        self.prepare_data()
        pool = self._load("train")
        if pool is None or len(pool) == 0:
            raise ValueError(f"{type(self).__name__} found no training images.")
        return pool

    def validate_on(self, positions: Positions) -> None:
        """Hold these images of `training_pool` out for validation, in place of all other validation images.

        Args:
            positions: Their positions in the pool.

        Raises:
            RuntimeError: If the splits are made already.
        """
        if self._is_set_up:
            raise RuntimeError("the splits are made already: call validate_on before setup.")
        self._held_out = np.sort(positions)

    def _load(self, split: Split) -> ImageDataset | None:
        dataset, classes = self.load(split), self.hparams["classes"]
        return dataset if dataset is None or classes is None else choose_classes(dataset, classes)

    def _describe(self, train: ImageDataset) -> None:
        self.class_names = train.class_names
        self.multi_label = train.labels.ndim == 2 and not train.soft_labels
        self.num_classes = len(self.class_names) or None
        self.in_channels, *size = train[0]["image"].shape
        self.image_size = (size[0], size[1])
        if (statistics := train.statistics()) is not None:
            self.mean, self.std = statistics

    @rank_zero_only
    def _tell(self, labeled: int) -> None:
        sizes = [f"{len(self.unlabeled_dataset):,} images to train on"]
        if labeled < len(self.unlabeled_dataset):
            sizes.append(f"{labeled:,} of them with a label")
        named = (("validate", self.val_dataset), ("test", self.test_dataset), ("predict", self.predict_dataset))
        for name, dataset in named:
            if dataset is not None:
                hidden = 0 if name == "predict" or not self.num_classes else int((dataset.strata < 0).sum())
                sizes.append(f"{len(dataset):,} to {name}" + (f" ({hidden:,} without a label)" if hidden else ""))
        classes = [f"{self.num_classes:,} classes"] if self.num_classes else []
        shape = "x".join(map(str, (self.in_channels, *(self.image_size or ()))))
        log.info("%s: %s; %s", type(self).__name__, ", ".join(sizes), ", ".join([*classes, shape]))

    @rank_zero_only
    def _tell_few(self, classes: int, least: int) -> None:
        if classes:
            log.warning(
                "%s: %s have fewer labels, %d at least; all of theirs are taken.",
                setting("labels_per_class", self.hparams["labels_per_class"], self),
                "all classes" if classes == self.num_classes else f"{classes} of {self.num_classes} classes",
                least,
            )

    @rank_zero_only
    def _tell_no_validation(self) -> None:
        log.warning(
            "There are no validation images: nothing is measured on images that training has not seen. Raise %s, or "
            "give more images of each class.",
            argument("val_fraction", self),
        )

    def class_counts(self) -> Tensor:
        """Return how many labels of each class training has, (num_classes,) int64."""
        labels = self.train_dataset.labels
        if labels.ndim == 2:
            return torch.where(labels > 0, labels, 0).sum(0).round().long()
        return torch.bincount(labels[labels >= 0], minlength=self.num_classes or 0)

    def object_counts(self) -> Tensor:
        """Return how many objects of each class training has, (len(box_classes),) int64; it reads all images once."""
        batches = self.ordered_loader(self.train_dataset) if self.box_classes else ()
        return _counted((labels for batch in batches for labels in batch["box_labels"]), len(self.box_classes))

    def pixel_counts(self) -> Tensor:
        """Return how many pixels of each class training has, (len(mask_classes),) int64; it reads all images once."""
        batches = self.ordered_loader(self.train_dataset) if self.mask_classes else ()
        return _counted((batch["mask"] for batch in batches), len(self.mask_classes))

    def train_dataloader(self) -> Any:
        """Return the loader of the labeled images, or of all for a module that `uses_unlabeled` ones."""
        module = as_module(module_of(self.trainer))
        dataset = self.unlabeled_dataset if module.uses_unlabeled else self.train_dataset
        if len(dataset) == 0:
            raise ValueError(f"{type(self).__name__} has no training images with labels.")
        rank, world_size = self._place()
        # Incomplete batches are dropped, but never the only one: an epoch of no steps would go unnoticed.
        drop_last = len(dataset) // world_size >= self.batch_size
        dealt = self._seed, world_size, rank, drop_last
        if self.balance:
            sampler: EpochSampler = BalancedSampler(self._sampled_classes(dataset), self.balance, *dealt)
        else:
            sampler = EpochSampler(len(dataset), True, *dealt)
        dataset = self._without_images_if_known(dataset)
        return ResumableLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, **self._options(dataset)
        )

    def _sampled_classes(self, dataset: ImageDataset) -> Tensor:
        """Return the class that each training image counts as in balanced sampling, -1 for none."""
        classes = dataset.sampled_classes()
        known = (classes >= 0).any()
        check(self, "balance", self.balance, bool(known), "0: no training image has a class by which it can be drawn")
        return classes

    def labeled_dataloader(self, max_images: int | None = None) -> Any:
        """Return a loader of the labeled training images, each once and in order, to evaluate on.

        Args:
            max_images: Images at most, spread evenly over the set; `None` takes all.
        """
        dataset = self.train_dataset.hard_labels()
        if max_images is not None and len(dataset) > max_images:
            dataset = dataset.subset(torch.linspace(0, len(dataset) - 1, max_images, dtype=torch.float64).long())
        return self._evaluation_loader(dataset)

    def val_dataloader(self) -> Any:
        """Return the loader of the validation images; an empty list where there are none, which is said."""
        if self.val_dataset is None:
            self._tell_no_validation()
            return []
        return self._evaluation_loader(self._without_images_if_known(self.val_dataset))

    def test_dataloader(self) -> Any:
        """Return the loader of the test images."""
        if self.test_dataset is None:
            raise ValueError(f"{type(self).__name__} has no test images here: use `validate`, or give it a test split.")
        return self._evaluation_loader(self.test_dataset)

    def predict_dataloader(self) -> Any:
        """Return the loader of the images to predict: those given for it, else the test or validation images."""
        dataset = self.predict_dataset or self.test_dataset or self.val_dataset
        if dataset is None:
            raise ValueError(f"{type(self).__name__} has no images to predict.")
        return self._evaluation_loader(dataset)

    def ordered_loader(self, dataset: ImageDataset) -> ResumableLoader:
        """Return a loader of all images of a dataset in order, whole on every process: to compute their features."""
        return ResumableLoader(dataset, batch_size=self.batch_size, **self._options(dataset))

    def _without_images_if_known(self, dataset: ImageDataset) -> ImageDataset:
        """Return the dataset without its images for a module that keeps features of them (not `needs_images`)."""
        return dataset if as_module(module_of(self.trainer)).needs_images else dataset.without_images()

    def _evaluation_loader(self, dataset: ImageDataset) -> ResumableLoader:
        rank, world_size = self._place()
        sampler = EpochSampler(len(dataset), shuffle=False, num_replicas=world_size, rank=rank)
        return ResumableLoader(dataset, batch_size=self.batch_size, sampler=sampler, **self._options(dataset))

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _options(self, dataset: ImageDataset | PairDataset) -> dict[str, Any]:
        processes = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return loader_options(self.hparams["num_workers"], dataset.in_memory, processes)

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Build the data of a checkpoint as Lightning does; names in it bring no code that is not loaded already."""
        with names_of_files():
            return super().load_from_checkpoint(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the training order and which image is in which split, for checkpoints."""
        record = self._record if self._parts else None
        state = {"seed": EpochSampler(1, True).seed if self._seed is None else self._seed}
        return state if record is None else {**state, "splits": record.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the seed and the splits of the run that is resumed or whose model is evaluated."""
        self._seed = state_dict["seed"]
        self.restore_splits(state_dict)

    def show_batch(self, split: Split = "train", n: int = 16, path: str | Path | None = None) -> "Figure":
        """Draw images with their labels, boxes and masks.

        Args:
            split: Which images.
            n: How many, at most.
            path: PNG file to write.

        Example:
            >>> from datamodules import DigitsDataModule
            >>> figure = DigitsDataModule().show_batch(n=8)
        """
        from datamodules.figure import draw_batch

        return draw_batch(self, split, n, path)

    def summary(self) -> str:
        """Return the sizes of the splits, the classes and the image size, in a few lines."""
        from datamodules.figure import summarize

        return summarize(self)


def _counted(parts: Iterable[Tensor], classes: int) -> Tensor:
    """Return how often each class occurs, what is no class left out."""
    counts = torch.zeros(classes, dtype=torch.int64)
    for part in parts:
        counts += torch.bincount(part.flatten(), minlength=classes)[:classes]
    return counts


def _apart(size: int, held: Positions) -> tuple[Positions, Positions]:
    return np.setdiff1d(np.arange(size), held, assume_unique=True), held


if TYPE_CHECKING:

    def _as_contract(datamodule: BaseDataModule) -> Data:
        return datamodule
