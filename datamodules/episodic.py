"""Few-shot learning: episodes from the classes of any DataModule."""

import logging
import zlib
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.base import BaseDataModule
from datamodules.checks import check
from datamodules.class_pool import ClassPool
from datamodules.class_splits import recorded_classes, recorded_names, split_classes
from datamodules.episode_checks import check_episodes
from datamodules.episodes import EpisodeDataset, EpisodeSampler, EvaluationEpisodes, Setting
from datamodules.loader import EpochSampler, ResumableLoader
from datamodules.memory import channel_statistics
from datamodules.split_record import state_in_checkpoint
from datamodules.support_folder import SupportFolder, open_support_folder
from lit_cv.contracts import Stage, as_module, module_of
from lit_cv.errors import OptionError, argument, setting, within
from lit_cv.printable import printable

__all__ = ["EpisodicDataModule"]

log = logging.getLogger("lit_cv")

_FEATURE_BATCH = 16  # evaluation episodes in a batch without images


class EpisodicDataModule(L.LightningDataModule):
    """Episodes of N classes with K support and Q query images each, from the classes of another DataModule.

    The images of all its splits are merged, and its classes are divided into disjoint sets for training, validation
    and test. Training draws new episodes in every epoch, as a function of (seed, step, rank); validation and test
    always use the same episodes, in all settings of `evaluate`. All images are kept in memory as uint8, and a batch
    of episodes is fetched from there at once.

    A batch has `support` and `query`, each with `image` (B, N K or N Q, C, H, W) uint8 and `label` (B, N K or N Q)
    int64 from 0 to N - 1, and `classes` (B, N), the class numbers. A module that compares features of single images
    (`compares_features`) gets evaluation episodes without images: rows of `evaluation_images`, which it encodes once.

    Args:
        base: DataModule of images with one label each. Classes named `GROUP/CLASS`, as from nested folders
            (`ImageFolderDataModule(class_depth=2)`), can be divided by group. Only `predict` does not need it.
        query_base: DataModule with the same classes for the query images, for example of another domain; `None` uses
            `base`.
        way: Classes of a training episode, N; more of them than in testing improve the features.
        shot: Support images per class, K.
        query: Query images per class, Q.
        eval_query: Query images per class in evaluation; `None` uses as many as in training.
        batch_size: Training episodes in a batch on each device.
        episodes_per_epoch: Training episodes per epoch over all devices.
        rotations: Whether training adds each class rotated by 90, 180 and 270 degrees as a new class, which needs
            four times the memory.
        evaluate: Settings of validation and test: `5w1s` for 5 classes and 1 support image each. The first one
            determines the best checkpoint.
        val_episodes: Validation episodes per setting.
        test_episodes: Test episodes per setting.
        split_by: Whether to divide by `class` or by `group` among training, validation and test.
        val_classes: Classes (groups) for validation: a list of names, or a number; `None` is a fifth.
        test_classes: Classes (groups) for testing, likewise. Classes of a checkpoint stay in their splits unless they
            are listed here, and new ones are tested: `test` on a folder of only new classes uses them all.
        split_seed: Seed of the choice of classes if numbers are given; `None` uses the last ones in sorted order for
            testing, and those before them for validation.
        support_root: For `predict`: folder with a folder of images for each new class.
        predict_root: For `predict`: folder of images to classify, searched recursively.

    Attributes:
        settings: The settings of `evaluate`.
        classes: Numbers of the base's classes for `train`, `val` and `test`.
        pools: Support images of `train`, `val` and `test`.
        query_pools: Query images, `None` if they are the same.

    Raises:
        ValueError: If there are fewer classes than an episode needs, or a class has too few images.

    Example:
        >>> from datamodules import DigitsDataModule
        >>> data = EpisodicDataModule(DigitsDataModule(), way=3, shot=2, query=4, evaluate=["2w1s"])
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["support"]["image"].shape, batch["query"]["label"].tolist()
        (torch.Size([1, 6, 1, 8, 8]), [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]])
    """

    checkpoint_path: str | Path | None = None  # to be loaded by the Trainer, if shared before `setup`

    def __init__(
        self,
        base: BaseDataModule | None = None,
        query_base: BaseDataModule | None = None,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        eval_query: int | None = None,
        batch_size: int = 1,
        episodes_per_epoch: int = 100,
        rotations: bool = False,
        evaluate: list[str] = ["5w1s", "5w5s"],  # noqa: B006 - shown by the command line, never modified
        val_episodes: int = 200,
        test_episodes: int = 1000,
        split_by: Literal["class", "group"] = "class",
        val_classes: int | list[int | str] | None = None,
        test_classes: int | list[int | str] | None = None,
        split_seed: int | None = None,
        support_root: str | None = None,
        predict_root: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["base", "query_base"])
        check(self, "way", way, way >= 2, "at least 2")
        ones = {"shot": shot, "query": query, "batch_size": batch_size, "episodes_per_epoch": episodes_per_epoch}
        ones |= {"val_episodes": val_episodes, "test_episodes": test_episodes, "eval_query": eval_query or 1}
        for name, value in ones.items():
            check(self, name, value, value >= 1, "at least 1")
        check(self, "split_by", split_by, split_by in ("class", "group"), "'class' or 'group'")
        check(self, "evaluate", evaluate, len(set(evaluate)) == len(evaluate) > 0, "a list of different settings")
        for name, datamodule in (("base", base), ("query_base", query_base)):
            balance = getattr(datamodule, "balance", 0.0)
            with within(name):
                check(datamodule, "balance", balance, not balance, "0: episodes draw every class equally often")
        self.base, self.query_base = base, query_base
        self.settings = [Setting.parse(text) for text in evaluate]
        self.batch_size = batch_size
        self.in_channels: int | None = None
        self.image_size: tuple[int, int] | None = None
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        self.class_names: list[str] = []  # of the support images in `predict`
        self.classes: dict[str, Any] = {}
        self.pools: dict[str, ClassPool] = {}
        self.query_pools: dict[str, ClassPool | None] = {}
        self._stage: str | None = None  # of `setup`
        self._recorded: dict[str, list[str]] | None = None  # names of the classes of each split in a checkpoint
        self._class_names: dict[str, list[str]] = {}  # of each split
        self._folder: SupportFolder | None = None
        self._seed: int | None = None

    def prepare_data(self) -> None:
        """Download or decode the images of the base DataModules."""
        for base in (self.base, self.query_base):
            if base is not None and not self._predicts_folders():
                base.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the images and divide the classes once; in `predict`, read the support images instead."""
        if self._predicts_folders():
            self._open_folder()
            return
        if self.pools:
            return
        if self.base is None:
            raise ValueError(
                "episodes are drawn from another DataModule: choose one "
                f"({setting('base', 'OmniglotDataModule', self)})."
            )
        self._stage = stage
        self._load_classes(self.base, stage)

    def _load_classes(self, base: BaseDataModule, stage: str | None) -> None:
        """Read the images and divide the classes among the splits."""
        self.pools, self.query_pools = {}, {}
        all_classes, other = _pool(base), None if self.query_base is None else _pool(self.query_base)
        if other is not None and other.names != all_classes.names:
            raise ValueError(
                f"query_base has the classes {_shown(other.names)}, ..., base has {_shown(all_classes.names)}, ...: "
                "use two DataModules with the same classes."
            )
        h = self.hparams
        self.classes = self._divide(all_classes.names, stage)
        self._class_names = {split: [all_classes.names[c] for c in classes] for split, classes in self.classes.items()}
        for split, classes in self.classes.items():
            if len(classes):
                self.pools[split] = all_classes.subset(classes)
                self.query_pools[split] = None if other is None else other.subset(classes)
        images = next(iter(self.pools.values())).images
        self.in_channels, height, width = images.shape[1:]
        self.image_size = (height, width)
        if h["rotations"] and height != width:
            raise ValueError(f"rotations needs square images, but these have {height} x {width} pixels.")
        if h["rotations"] and "train" in self.pools:
            self.pools["train"] = self.pools["train"].with_rotations()
            query_pool = self.query_pools["train"]
            self.query_pools["train"] = None if query_pool is None else query_pool.with_rotations()
        self._check_episode_sizes(stage)
        self._log_classes()
        self.mean, self.std = channel_statistics(images.numpy())

    def _divide(self, names: list[str], stage: str | None) -> dict[str, Any]:
        """Return the classes of each split: as in the checkpoint if it has any of them, otherwise by the options."""
        h = self.hparams
        recorded = self._recorded
        if recorded is None:
            state = state_in_checkpoint(self.checkpoint_path, type(self).__qualname__)
            recorded = recorded_names(state.get("classes"))
        shared = {name for split in recorded.values() for name in split} & set(names)
        if recorded and not shared and stage == "test":
            log.info("All %d classes are new since the checkpoint, and all are tested.", len(names))
            return recorded_classes(names, h["split_by"], recorded)
        if shared and not any(isinstance(h[f"{split}_classes"], list) for split in ("val", "test")):
            new = len(names) - len(shared)
            if new:
                log.warning(
                    "%d classes are new since the checkpoint, and only tested; the others stay in their splits.", new
                )
            return recorded_classes(names, h["split_by"], recorded)
        options = (h["split_by"], h["val_classes"], h["test_classes"], h["split_seed"])
        classes = split_classes(names, *options, trains=stage in (None, "fit"))
        trained = set(recorded.get("train", ()))
        for split in ("val", "test"):
            if count := sum(names[number] in trained for number in classes[split]):
                log.warning(
                    "The checkpoint was trained on %d of the %d classes of %s (%s).",
                    count, len(classes[split]), split, argument(f"{split}_classes", self),
                )  # fmt: skip
        return classes

    @rank_zero_only
    def _log_classes(self) -> None:
        sizes = [
            f"{len(self.classes[split]):,} to {verb}"
            for split, verb in (("train", "train on"), ("val", "validate"), ("test", "test"))
        ]
        shape = "x".join(map(str, (self.in_channels, *(self.image_size or ()))))
        log.info("%s: classes: %s; %s", type(self).__name__, ", ".join(sizes), shape)

    def _check_episode_sizes(self, stage: str | None) -> None:
        """Raise if episodes cannot be drawn from the classes."""
        h = self.hparams
        evaluated = [(setting.way, setting.shot, "evaluate") for setting in self.settings]
        needed = {"test": ("test",), "validate": ("val",)}.get(stage or "fit", ("train", "val", "test"))
        for split, pool in self.pools.items():
            if split == "train" and split in needed:
                check_episodes(split, pool, self.query_pools[split], [(h["way"], h["shot"], "way")], h["query"])
            elif split in needed:
                check_episodes(split, pool, self.query_pools[split], evaluated, h["eval_query"] or h["query"])

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of the training episodes."""
        h = self.hparams
        rank, world_size = self._rank_and_world_size()
        if h["episodes_per_epoch"] < world_size * self.batch_size:
            raise OptionError(
                self,
                "episodes_per_epoch",
                h["episodes_per_epoch"],
                f"too few for a batch of {self.batch_size} episodes on {world_size} devices; give more",
            )
        sampler = EpisodeSampler(h["episodes_per_epoch"], self._seed, world_size, rank)
        pools = (self.pools["train"], self.query_pools["train"])
        dataset = EpisodeDataset(*pools, h["way"], h["shot"], h["query"], size=h["episodes_per_epoch"])
        return ResumableLoader(dataset, self.batch_size, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> Any:
        """Return the loader of the validation episodes, or an empty list if no classes are held out for them."""
        if "val" not in self.pools:
            rank_zero_only(log.warning)(
                "There are no validation episodes: no classes are held out for them (%s).",
                argument("val_classes", self),
            )
            return []
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """Return the loader of the test episodes."""
        if "test" not in self.pools:
            raise ValueError(f"there are no test classes: set {argument('test_classes', self)}.")
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> ResumableLoader:
        """Return the loader of the images to predict."""
        if self._folder is None:
            raise ValueError(
                "prediction needs examples of the classes and images to classify: set "
                f"{argument('support_root', self)} to a folder with a folder for each class, and "
                f"{argument('predict_root', self)}."
            )
        return cast(ResumableLoader, self._folder.predict_dataloader())

    def support_set(self) -> tuple[Tensor, Tensor]:
        """Return the images (S, C, H, W) uint8 and labels (S,) int64 of `support_root`."""
        if self._folder is None:
            raise ValueError(f"there are no support images: set {argument('support_root', self)}.")
        return self._folder.support_set()

    def evaluation_images(self, stage: Stage) -> dict[str, Tensor]:
        """Return the images that `index` of evaluation episodes refers to, (M, C, H, W) uint8.

        Returns:
            Images for `support` and `query`, the same unless there is a `query_base`.
        """
        query = self.query_pools[stage]
        support = self.pools[stage].images
        return {"support": support, "query": support if query is None else query.images}

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the training episodes and the classes of each split, for checkpoints."""
        seed = EpochSampler(1, True).seed if self._seed is None else self._seed
        return {"seed": seed, "classes": self._class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed and the classes of each split of a checkpoint."""
        self._seed = state_dict["seed"]
        recorded = recorded_names(state_dict.get("classes"))
        if self._recorded is None and recorded and self.checkpoint_path is None and recorded != self._class_names:
            self._recorded = recorded
            if self.pools and self.base is not None:
                self._load_classes(self.base, self._stage)

    def _evaluation_loader(self, stage: Literal["val", "test"]) -> ResumableLoader:
        by_features = as_module(module_of(self.trainer)).compares_features
        episodes = EvaluationEpisodes(
            self.pools[stage],
            self.query_pools[stage],
            self.settings,
            self.hparams["eval_query"] or self.hparams["query"],
            self.hparams[f"{stage}_episodes"],
            batch_size=_FEATURE_BATCH if by_features else self.batch_size,
            key=zlib.crc32(stage.encode()),
            reads_images=not by_features,
        )
        rank, world_size = self._rank_and_world_size()
        sampler = EpochSampler(len(episodes), shuffle=False, num_replicas=world_size, rank=rank)
        return ResumableLoader(episodes, None, sampler=sampler)

    def _open_folder(self) -> None:
        """Open the support images and the images to predict."""
        h, module = self.hparams, module_of(self.trainer)
        if h["support_root"] is None or h["predict_root"] is None:
            self.predict_dataloader()  # raises the error
        value_range = None if self.base is None else self.base.hparams.get("value_range")
        self._folder = open_support_folder(h["support_root"], h["predict_root"], module.hparams, value_range)
        self.class_names = self._folder.class_names

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _predicts_folders(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == "predict"


def _pool(base: BaseDataModule) -> ClassPool:
    """Return the labeled images of all splits of a DataModule."""
    base.setup()
    if base.multi_label:
        raise ValueError(f"{type(base).__name__} has images with several labels: episodes need one label per image.")
    splits = [base.train_dataset, base.val_dataset, base.test_dataset]
    return ClassPool.read([dataset for dataset in splits if dataset is not None])


def _shown(names: list[str]) -> str:
    return printable(", ".join(names[:5]), lines=False)
