"""Base of all DataModules: splits, hidden labels, loaders, figures."""

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
from datamodules.mixed_sampling import MixedSampler
from datamodules.recorded_splits import RecordedSplits
from datamodules.splits import Positions, classes_with_fewer
from lit_cv.contracts import Data, as_module, module_of
from lit_cv.errors import VoidOptionError, argument, setting
from lit_cv.ignore_index import unlabeled_rows
from lit_cv.renamed_arguments import use_new_names
from lit_cv.trust import names_of_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BaseDataModule", "Split"]

log = logging.getLogger("lit_cv")

Split = Literal["train", "val", "test", "predict"]

_EVALUATION_SPLITS: tuple[Split, ...] = ("val", "test", "predict")


class BaseDataModule(RecordedSplits, ABC):
    """Base of all DataModules. A subclass implements `load`, and `prepare_data` if it downloads anything.

    Batches are dicts: `image` (N, C, H, W) uint8, `label` (N,) int64 or (N, K) float32 of 0 and 1 (multi-label images;
    in training also soft labels whose rows sum to 1), and `index` (N,), the position in the dataset. If they exist:
    `boxes` and `box_labels`, lists of (k, 4) float32 corners in pixels and (k,) int64 classes; `masks`, a list of (k,
    H, W) bool with the pixels of each object; and `mask` (N, H, W) int64, 255 where unknown. The training order is a
    function of (seed, epoch), and a run can be resumed in the middle of an epoch. Splits and the choice of labels are
    the same on every machine.

    Args:
        batch_size: Images in a batch on each device.
        num_workers: Worker processes that read images; `None` uses none for images in memory, otherwise one per core
            of this rank's share, at most 8.
        val_fraction: Share of the training images held out for validation if the source has no validation split,
            stratified by class; in [0, 1).
        split_seed: Seed of the splits.
        labels_per_class: Number of labels of each class to keep for training; the other images remain available
            without labels to modules that use them. `None` keeps all.
        label_fraction: Share of the labels to keep for training, stratified by class; in (0, 1].
        label_seed: Seed of the choice of labels; `None` uses `split_seed`.
        classes: Classes to keep, by name, or by number (from 0) if no name is a number; they are renumbered in this
            order. `None` keeps all.
        balance: Strength of class balancing in training: 0 draws every image once per epoch, 1 all classes equally
            often; in between, the share of a class with n images is proportional to n^(1 - balance). The epoch length
            stays the same; unlabeled images are drawn once. An image with several labels counts as its rarest class,
            and one without image-level labels as the rarest class of its boxes.

    Attributes:
        train_dataset: Training images with labels.
        unlabeled_dataset: All training images, with hidden or unknown labels as -1.
        val_dataset: Validation images, or `None`; likewise `test_dataset` and `predict_dataset`.
        num_classes: Number of classes.
        class_names: Class names.
        box_classes: Class names of `box_labels`, empty without boxes.
        mask_classes: Names of the values of `mask` from 0, empty without masks.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels, `None` if they differ between batches.
        multi_label: Whether images have several labels, `None` if they have none.
        mean: Mean of each channel in [0, 1] units over the training images, `None` if unknown.
        std: Standard deviation of each channel, `None` if unknown.

    Raises:
        ValueError: If an argument is out of range.
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
            both = "labels_per_class and label_fraction cannot be combined: remove one of them"
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
        """Return the images of a split, or `None` if the source has none (never for "train")."""

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Finalize the dataset of a split after splitting, for example its image size; here it is unchanged."""
        return dataset

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them, once."""
        if self._is_set_up:
            return
        train = self._load("train")
        if train is None or len(train) == 0:
            raise ValueError(f"{type(self).__name__} found no training images.")
        h = self.hparams
        others = {split: self._load(split) for split in _EVALUATION_SPLITS}
        chosen = self._held_out
        if chosen is not None or (others["val"] is None and h["val_fraction"] > 0):
            kept, held = (
                self.division.hold_out(train, "val", h["val_fraction"])
                if chosen is None
                else _split_off(len(train), chosen)
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
            # evaluation uses one class per image, even if training uses soft labels
            setattr(self, f"{split}_dataset", None if dataset is None else self.finish(dataset.hard_labels(), split))
        self.train_dataset = self.unlabeled_dataset = train
        if len(labeled) < len(train):
            self.train_dataset = train.subset(labeled)
            self.unlabeled_dataset = train.hide_labels(labeled)
        self._describe(train)
        self._log_sizes(len(labeled))
        if h["labels_per_class"] is not None:
            self._warn_few_labels(*classes_with_fewer(train.strata, h["labels_per_class"]))
        self._is_set_up = True

    def training_pool(self) -> ImageDataset:
        """Return the training images before any are held out, for cross-validation."""
        self.prepare_data()
        pool = self._load("train")
        if pool is None or len(pool) == 0:
            raise ValueError(f"{type(self).__name__} found no training images.")
        return pool

    def validate_on(self, positions: Positions) -> None:
        """Use these images of `training_pool` for validation instead of all others.

        Args:
            positions: Their positions in the pool.

        Raises:
            RuntimeError: If the splits are already made.
        """
        if self._is_set_up:
            raise RuntimeError("the splits are already made: call validate_on before setup.")
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
    def _log_sizes(self, labeled: int) -> None:
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
    def _warn_few_labels(self, classes: int, fewest: int) -> None:
        if classes:
            log.warning(
                "%s: %s have fewer labels (the fewest: %d); all of these are used.",
                setting("labels_per_class", self.hparams["labels_per_class"], self),
                "all classes" if classes == self.num_classes else f"{classes} of {self.num_classes} classes",
                fewest,
            )

    @rank_zero_only
    def _warn_no_validation(self) -> None:
        log.warning(
            "There are no validation images, so there are no validation metrics. Increase %s, or add images of each "
            "class.",
            argument("val_fraction", self),
        )

    def class_counts(self) -> Tensor:
        """Return the number of training labels of each class, (num_classes,) int64."""
        labels = self.train_dataset.labels
        if labels.ndim == 2:
            return torch.where(labels > 0, labels, 0).sum(0).round().long()
        return torch.bincount(labels[labels >= 0], minlength=self.num_classes or 0)

    def object_counts(self) -> Tensor:
        """Return the number of training objects of each class, (len(box_classes),) int64, by reading all images."""
        batches = self.ordered_loader(self.train_dataset) if self.box_classes else ()
        return _counted((labels for batch in batches for labels in batch["box_labels"]), len(self.box_classes))

    def pixel_counts(self) -> Tensor:
        """Return the number of training pixels of each class, (len(mask_classes),) int64, by reading all images."""
        batches = self.ordered_loader(self.train_dataset) if self.mask_classes else ()
        return _counted((batch["mask"] for batch in batches), len(self.mask_classes))

    def train_dataloader(self) -> Any:
        """Return the loader of the labeled images, or of all images for a module that `uses_unlabeled` ones.

        For a module with an `unlabeled_ratio` each batch holds `batch_size` labeled images, followed by that many
        times as many without a label, whose `label` is -1.
        """
        module = as_module(module_of(self.trainer))
        if module.unlabeled_ratio is not None:
            return self._mixed_loader(module.unlabeled_ratio)
        dataset = self.unlabeled_dataset if module.uses_unlabeled else self.train_dataset
        if len(dataset) == 0:
            raise ValueError(f"{type(self).__name__} has no training images with labels.")
        rank, world_size = self._rank_and_world_size()
        # Incomplete batches are dropped unless there is only one, as an epoch without steps would go unnoticed.
        drop_last = len(dataset) // world_size >= self.batch_size
        sampling = self._seed, world_size, rank, drop_last
        if self.balance:
            sampler: EpochSampler = BalancedSampler(self._sampled_classes(dataset), self.balance, *sampling)
        else:
            sampler = EpochSampler(len(dataset), True, *sampling)
        dataset = self._without_images_if_known(dataset)
        return ResumableLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, **self._options(dataset)
        )

    def _mixed_loader(self, ratio: int) -> ResumableLoader:
        dataset, (rank, world_size) = self.unlabeled_dataset, self._rank_and_world_size()
        known = ~unlabeled_rows(dataset.labels)
        if not known.any():
            raise ValueError(f"{type(self).__name__} has no training images with labels.")
        if known.all():
            raise ValueError(
                f"all {len(dataset):,} training images of {type(self).__name__} have labels, but semi-supervised "
                f"learning needs images without: set {argument('labels_per_class', self)} or "
                f"{argument('label_fraction', self)} to hide labels, or add images without labels."
            )
        classes = self._sampled_classes(dataset) if self.balance else None
        sampler = MixedSampler(known, self.batch_size, ratio, classes, self.balance, self._seed, world_size, rank)
        return ResumableLoader(
            dataset, batch_size=self.batch_size * (1 + ratio), sampler=sampler, drop_last=True, **self._options(dataset)
        )

    def _sampled_classes(self, dataset: ImageDataset) -> Tensor:
        """Return the class of each training image for balanced sampling, -1 for none."""
        classes = dataset.sampled_classes()
        has_class = (classes >= 0).any()
        check(self, "balance", self.balance, bool(has_class), "0: no training image has a class to balance by")
        return classes

    def labeled_dataloader(self, max_images: int | None = None) -> Any:
        """Return a loader of the labeled training images, each once and in order, for evaluation.

        Args:
            max_images: Maximum number of images, evenly spread over the set; `None` uses all.
        """
        dataset = self.train_dataset.hard_labels()
        if max_images is not None and len(dataset) > max_images:
            dataset = dataset.subset(torch.linspace(0, len(dataset) - 1, max_images, dtype=torch.float64).long())
        return self._evaluation_loader(dataset)

    def val_dataloader(self) -> Any:
        """Return the loader of the validation images, or an empty list with a warning if there are none."""
        if self.val_dataset is None:
            self._warn_no_validation()
            return []
        return self._evaluation_loader(self._without_images_if_known(self.val_dataset))

    def test_dataloader(self) -> Any:
        """Return the loader of the test images."""
        if self.test_dataset is None:
            raise ValueError(f"{type(self).__name__} has no test images: use `validate`, or add a test split.")
        return self._evaluation_loader(self.test_dataset)

    def predict_dataloader(self) -> Any:
        """Return the loader of the images to predict, else that of the test or validation images."""
        dataset = self.predict_dataset or self.test_dataset or self.val_dataset
        if dataset is None:
            raise ValueError(f"{type(self).__name__} has no images to predict.")
        return self._evaluation_loader(dataset)

    def ordered_loader(self, dataset: ImageDataset) -> ResumableLoader:
        """Return a loader of all images of a dataset in order, complete on every rank, to compute features."""
        return ResumableLoader(dataset, batch_size=self.batch_size, **self._options(dataset))

    def _without_images_if_known(self, dataset: ImageDataset) -> ImageDataset:
        """Return the dataset without images if the module has cached features (not `needs_images`)."""
        return dataset if as_module(module_of(self.trainer)).needs_images else dataset.without_images()

    def _evaluation_loader(self, dataset: ImageDataset) -> ResumableLoader:
        rank, world_size = self._rank_and_world_size()
        sampler = EpochSampler(len(dataset), shuffle=False, num_replicas=world_size, rank=rank)
        return ResumableLoader(dataset, batch_size=self.batch_size, sampler=sampler, **self._options(dataset))

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _options(self, dataset: ImageDataset | PairDataset) -> dict[str, Any]:
        processes = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return loader_options(self.hparams["num_workers"], dataset.in_memory, processes)

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Load a DataModule from a checkpoint; names in it cannot import code that is not already loaded."""
        with names_of_files():
            return super().load_from_checkpoint(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the training order and the split of each image, for checkpoints."""
        record = self._record if self._parts else None
        state = {"seed": EpochSampler(1, True).seed if self._seed is None else self._seed}
        return state if record is None else {**state, "splits": record.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed and the splits of a checkpoint."""
        self._seed = state_dict["seed"]
        self.restore_splits(state_dict)

    def show_batch(self, split: Split = "train", n: int = 16, path: str | Path | None = None) -> "Figure":
        """Draw images with their labels, boxes and masks.

        Args:
            split: Split of the images.
            n: Maximum number of images.
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
    """Return how often each class occurs; other values are ignored."""
    counts = torch.zeros(classes, dtype=torch.int64)
    for part in parts:
        counts += torch.bincount(part.flatten(), minlength=classes)[:classes]
    return counts


def _split_off(size: int, held: Positions) -> tuple[Positions, Positions]:
    return np.setdiff1d(np.arange(size), held, assume_unique=True), held


if TYPE_CHECKING:

    def _as_contract(datamodule: BaseDataModule) -> Data:
        return datamodule
