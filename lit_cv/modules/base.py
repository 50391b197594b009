"""What all learning approaches share: a backbone, optimisation, one step for every stage, exact resume."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.loop_state import batch_index, logs_now, restore_loaders
from lit_cv.modules.checkpoint_contents import add_contents, take_contents
from lit_cv.modules.compilation import compile_networks
from lit_cv.modules.data_classes import ClassLists, match_data_classes
from lit_cv.modules.inference import infer_from_data
from lit_cv.modules.optimization import configure_optimizer, take_given_options
from lit_cv.modules.running_means import RunningMeans
from lit_cv.nn import check_backbone_name, create_backbone
from lit_cv.optim import Plateau, parameter_groups
from lit_cv.randomness import global_seed, seed_step

__all__ = ["BaseModule", "Batch", "Output", "Stage"]

Batch = dict[str, Any]
Output = dict[str, Any]
Stage = Literal["train", "val", "test"]


class BaseModule(L.LightningModule, ABC):
    """Base of every learning approach. A subclass gives a head, a step and its metrics.

    A subclass implements `configure_head` and `step`, usually `configure_metrics`, and names in `monitor` and
    `mode` the metric by which its checkpoints are chosen. Training, validation and test all run through
    `step`; every scalar that it returns is averaged over the epoch and logged as `{stage}_{name}`, weighted by what it
    is a mean of: the batch, or what `counts` says.
    What a step changes besides the weights, such as a moving average of them, belongs in `after_step`. A subclass that
    overrides `on_train_batch_end` is refused when it is defined: Lightning calls that hook after the callbacks have
    written their checkpoints, so that a resumed run would differ.
    Constructor arguments of a subclass are plain values (numbers, strings, lists, dicts) and the rest goes
    on as `**kwargs`: the command line then knows all of them, and checkpoints load without pickled code.

    What depends on the data and is left at `None` (here `in_channels` and `image_size`, in subclasses also
    `num_classes`) is taken from the DataModule when the Trainer sets up; the networks are built then.

    Args:
        backbone: Name of the network that turns images into features: a torchvision classification model
            (`resnet18`, `vit_b_16`, ...), a compact one (`conv4`, `resnet9`, ...), a vision transformer for any
            image size (`vit_tiny`, `vit_base_p16`, ...) or `timm/NAME`.
        weights: Weights to start from: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint, of
            which `PATH:teacher` takes the part `teacher`.
        in_channels: Channels of the images; `None` takes them from the data (3 without data).
        image_size: Height and width of the images in pixels, one number for squares; `None` takes it from
            the data. Vision transformers need it, and `stem: auto` looks at it.
        stem: First layers of the backbone: `standard` as published, `small` keeps the resolution of small
            images, `auto` takes `small` up to 64 pixels where the backbone has such a stem.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        drop_path: Stochastic depth: probability that an image skips the last residual branch in training, rising
            to that from 0 at the first, where the backbone has it (the `vit_tiny` family, convnext, efficientnet,
            swin, maxvit, timm's); `None` keeps the network's own.
        optimizer: `adamw`, `adam`, `sgd` (Nesterov momentum) or `lars`.
        lr: Peak learning rate.
        weight_decay: Weight decay; never applied to norms, biases and other vectors.
        momentum: Momentum of `sgd` and `lars`.
        betas: Decay rates of the two moments of `adamw` and `adam`.
        schedule: Course of the learning rate, step by step: `cosine`, `one_cycle`, `exponential`, `plateau` or
            `constant`, after a linear warm-up.
        warmup_epochs: Length of the warm-up in epochs, fractions allowed.
        min_lr: Learning rate that the schedule ends at.
        lr_scaling: What `lr` is multiplied by for a batch of B images over all devices and accumulated batches:
            `sqrt` by sqrt(B / 256), `linear` by B / 256, `none` by 1.
        compile: Whether training runs the networks through `torch.compile`. The first steps then take minutes, and
            images of another size are compiled anew: it pays for long runs on a GPU, on a CPU hardly ever.

    Attributes:
        monitor: Metric that decides which checkpoint is the best, and when to stop early.
        mode: Whether `monitor` is better when smaller (`min`) or greater (`max`).
        uses_unlabeled: Whether training takes the images whose labels are hidden, too (label -1).
        expects_views: Whether batches need `views` (V, N, C, H, W) of the images, from `ContrastiveAugmentation`.
        expects_domains: Whether training batches hold a `source` and a `target`, from `DomainAdaptationDataModule`.
        evaluates_embedding: Whether validation is to judge what `embed` gives, by `EmbeddingEvaluation`.
    """

    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    uses_unlabeled: ClassVar[bool] = False
    expects_views: ClassVar[bool] = False
    expects_domains: ClassVar[bool] = False
    evaluates_embedding: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.on_train_batch_end is not L.LightningModule.on_train_batch_end:
            raise TypeError(
                f"{cls.__name__}.on_train_batch_end would run after checkpoints are written, so that a resumed run "
                "would differ: override after_step instead."
            )

    def __init__(
        self,
        backbone: str = "resnet9",
        weights: str | None = None,
        in_channels: int | None = None,
        image_size: int | list[int] | None = None,
        stem: Literal["auto", "standard", "small"] = "auto",
        spatial_dropout: float = 0.0,
        drop_path: float | None = None,
        optimizer: Literal["adamw", "adam", "sgd", "lars"] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: Literal["cosine", "one_cycle", "exponential", "plateau", "constant"] = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        lr_scaling: Literal["none", "sqrt", "linear"] = "none",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_backbone_name(backbone)
        self.means: dict[str, RunningMeans] = {stage: RunningMeans() for stage in ("train", "val", "test")}
        self.metrics = nn.ModuleDict()
        self.seed: int | None = None
        self.trained_classes: ClassLists = {}  # what the weights tell apart, by the DataModule's name of each list

    @abstractmethod
    def configure_head(self, num_features: int) -> nn.Module:
        """Return the network on top of the backbone, which gets features of shape (N, num_features)."""

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Output:
        """Return `loss`, any further scalars to log, and `logits` and `target` for the metrics.

        A scalar that is a mean over a part of the batch alone, such as the images that have a label, or over
        something else, such as pixels, says over how much in `counts`, a dict of numbers or scalars by the scalar's
        name; those that are means over nothing are left out of the epoch's mean.

        A step that changes the images itself also returns them, as `images` (N, C, H, W) uint8 or in [0, 1]: they are
        those that pictures are to show beside `logits` and `target`.
        """

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name; they are logged as `{stage}_{name}`."""
        return {}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Feed one batch to the metrics: `logits` and `target`; override it for others."""
        if not {"logits", "target"} <= output.keys():
            raise TypeError(
                f"{type(self).__name__}.step returned {', '.join(output)}: its metrics need `logits` and `target`, or "
                "an update_metrics of its own."
            )
        metrics.update(output["logits"], output["target"])

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is logged of an epoch whose means and metrics are `values`, such as `val_loss`; here these."""
        return values

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's output for raw images, (N, C, H, W) uint8 or float in [0, 1]."""
        self.configure_model()
        return cast(Tensor, self.head(self.backbone(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Return what was learnt about raw images, (N, num_features): the features that are worth keeping."""
        self.configure_model()
        return cast(Tensor, self.backbone(images))

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes that this module learns from a DataModule, by its attribute; here none."""
        return {}

    def declared_classes(self) -> ClassLists:
        """Return the names of classes that the arguments give, by the DataModule's name of their list; here none."""
        return {}

    def setup(self, stage: str) -> None:
        """Have the data number their classes as this module does; a subclass that overrides it calls it, too."""
        match_data_classes(self)
        if stage == "fit" and self.training:  # then the parts in eval mode are so on purpose: frozen, or a teacher
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")

    def configure_model(self) -> None:
        """Build the networks, once, taking from the DataModule what was left open."""
        if "backbone" in self._modules:
            return
        if not self.trained_classes:  # Lightning's averaging callbacks build the networks before `setup`
            match_data_classes(self)
        h = self.hparams
        normalization = infer_from_data(h, getattr(self._trainer, "datamodule", None))
        self.backbone = create_backbone(
            h["backbone"],
            in_channels=h["in_channels"],
            image_size=tuple(h["image_size"]) if isinstance(h["image_size"], list) else h["image_size"],
            stem=h["stem"],
            weights=h["weights"],
            spatial_dropout=h["spatial_dropout"],
            drop_path=h["drop_path"],
            **normalization,
        ).to(memory_format=torch.channels_last)  # convolutions measured 1.1 to 1.9 times faster
        self.head = self.configure_head(self.backbone.num_features)
        self.build_metrics()

    def build_metrics(self) -> None:
        """Build the metrics of validation and test, anew if they are there already."""
        for stage in ("val", "test"):
            if metrics := self.configure_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics), prefix=f"{stage}_")

    def compiled_networks(self) -> list[nn.Module]:
        """Return the networks that `compile` is for: those that a training step calls as a whole."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, each with a `name`, `lr` and `weight_decay`."""
        return parameter_groups(self, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, which moves at every step."""
        return configure_optimizer(self)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed the step before callbacks augment its batch: see `lit_cv.randomness`."""
        if self.trainer.training:
            if self.seed is None:
                self.seed = global_seed()
            seed_step(self.seed, self.current_epoch, batch_index(self.trainer), self.global_rank, self.device)
        return batch

    def on_train_start(self) -> None:
        """Go on where a checkpoint stands in the data, but with the options of this run; compile what is asked for."""
        restore_loaders(self.trainer)
        take_given_options(self)
        if self.hparams["compile"]:
            compile_networks(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and have `after_step` follow it."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.after_step()

    def after_step(self) -> None:
        """Change what follows the weights, such as a moving average of them; here nothing.

        It runs after each optimizer step, once for all accumulated batches, without recording gradients, and before the
        learning rate moves, any callback sees the end of the batch and any checkpoint is written. `global_step` is
        still the number of the step, from 0. Steps that are counted but change no weight, as the scaler of float16
        and `NonFiniteGuard` leave them out, are followed by it, too. With manual optimization, which no module here
        has, `training_step` calls it.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step and log its loss now and then; the epoch's means are logged at its end."""
        output = self._run_step(batch, "train")
        if logs_now(self.trainer):
            self.log("train_loss_step", output["loss"], prog_bar=True)
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step without learning from it."""
        return self._run_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step without learning from it."""
        return self._run_step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the `embedding` (N, num_features) of images and where they stand in the data; override it for more."""
        return {"embedding": self.embed(batch["image"]), **{key: batch[key] for key in ("index",) if key in batch}}

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and move a schedule that waits for a metric."""
        self._log_epoch("train")
        schedule = self.lr_schedulers()
        if isinstance(schedule, Plateau):
            metrics = self.trainer.callback_metrics
            schedule.observe(float(metrics[self.monitor if self.monitor in metrics else "train_loss"]))

    def on_validation_epoch_end(self) -> None:
        """Log the means and metrics of all validation images."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the means and metrics of all test images."""
        self._log_epoch("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an exact resume and a later reader need."""
        add_contents(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, and take up the seed of its run."""
        take_contents(self, checkpoint)

    def _run_step(self, batch: Batch, stage: Stage) -> Output:
        output = self.step(batch, stage)
        if not _has_loss(output, stage):
            raise TypeError(
                f"{type(self).__name__}.step must return a dict with `loss`, a tensor of one number: {_said(output)}"
            )
        scalars = {name: value for name, value in output.items() if _is_number(value)}
        self.means[stage].update(scalars, _size(batch), output.get("counts"))
        if stage in self.metrics:
            self.update_metrics(cast(MetricCollection, self.metrics[stage]), output)
        return output

    def _log_epoch(self, stage: Stage) -> None:
        values = {f"{stage}_{name}": value for name, value in self.means[stage].compute().items()}
        self.means[stage].reset()
        if stage in self.metrics:
            metrics = cast(MetricCollection, self.metrics[stage])
            with warnings.catch_warnings():  # there may be no image of the kind that a metric is of, or on this rank
                warnings.filterwarnings("ignore", "The ``compute`` method of metric")
                values |= metrics.compute()
            with torch.inference_mode(False):  # of `validate`, after which `fit` could not update its tensors
                metrics.reset()
        for name, value in self.summarize(stage, values).items():
            self.log(name, value, prog_bar=name == self.monitor)


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _has_loss(output: object, stage: Stage) -> bool:
    """Tell whether a step returned a dict with a loss, which evaluation can do without."""
    if not isinstance(output, dict):
        return False
    return _is_number(output.get("loss")) or (stage != "train" and "loss" not in output)


def _said(output: object) -> str:
    """Say what a step returned in place of a dict with a loss."""
    if not isinstance(output, dict):
        return f"it returned a {type(output).__name__}."
    if "loss" not in output:
        return f"it returned {', '.join(map(str, output)) or 'an empty one'}."
    loss = output["loss"]
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    return f"its loss is a {type(loss).__name__}{shape}."


def _size(batch: Batch) -> int:
    """Return the number of samples: of the first tensor, in the batch or in the first batch within it."""
    for value in batch.values():
        if isinstance(value, Tensor):
            return len(value)
        if isinstance(value, dict):
            return _size(value)
    raise TypeError(f"a batch of {', '.join(map(str, batch)) or 'nothing'} has no tensor.")
