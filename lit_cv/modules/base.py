"""Base class of all learning approaches: arguments, backbone, forward, embedding and prediction."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from lit_cv.contracts import Batch, Module, Output, Stage, datamodule_of
from lit_cv.modules.inference import ChannelStatistics, infer_from_data
from lit_cv.modules.lightning_hooks import LightningHooks
from lit_cv.nn import Backbone, Weights, check_backbone_name, create_backbone
from lit_cv.optim import OptimizerName, ScheduleName, check_optimizer, check_schedule
from lit_cv.renamed_arguments import use_new_names

__all__ = ["BaseModule", "Batch", "Output", "Stage"]


class BaseModule(LightningHooks):
    """Base of every learning approach. A subclass defines a head, a step and its metrics.

    A subclass implements `configure_head` and `step`, usually `configure_metrics`, and sets `monitor` and `mode`, the
    metric that selects the best checkpoint. Training, validation and test all run through `step`. Each scalar that it
    returns is averaged over the epoch and logged as `{stage}_{name}`, weighted by the batch size or by its entry in
    `counts`. `ExtensionPoints` lists the other methods and flags that a subclass may override.

    Further networks besides `backbone` and `head` are built in `configure_networks`. Defining a subclass that overrides
    `configure_model` raises an error, since it is called more than once. What a step changes besides the weights, such
    as a moving average of them, belongs in `after_step`. Defining a subclass that overrides `on_train_batch_end` raises
    an error: Lightning calls that hook after callbacks have written their checkpoints, so a resumed run would differ.

    Constructor arguments of a subclass are plain values (numbers, strings, lists, dicts); pass all others on as
    `**kwargs`. The command line then knows all arguments, and checkpoints load without pickled code.

    Arguments that depend on the data and are `None` (here `in_channels` and `image_size`, in subclasses also
    `num_classes`) are set from the DataModule when the Trainer sets up; the networks are built then.

    Args:
        backbone: Name of the network that turns images into features: a torchvision classification model
            (`resnet18`, `vit_b_16`, ...), a compact one (`conv4`, `resnet9`, ...), a vision transformer for any
            image size (`vit_tiny`, `vit_base_p16`, ...), `timm/NAME`, or `file.Class` for a custom network, see
            `lit_cv.nn.own_networks`.
        weights: Initial weights: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint;
            `PATH:teacher` loads its part `teacher`.
        in_channels: Number of image channels; `None` takes it from the data (3 without data).
        image_size: Height and width of the images in pixels, or one number for square images; `None` takes it from
            the data. Vision transformers need it, and `stem: auto` depends on it.
        stem: First layers of the backbone: `standard` as published, `small` to keep the resolution of small images,
            `auto` to use `small` for images up to 64 pixels if the backbone has such a stem.
        mean: Mean of each channel in [0, 1] units for the normalization of images. `None` takes that of the weights,
            or without weights that of the data. The log names the source.
        std: Standard deviation of each channel, likewise.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        drop_path: Stochastic depth: probability that an image skips the last residual branch in training. It rises
            from 0 at the first branch. Only for backbones that support it (the `vit_tiny` family, convnext,
            efficientnet, swin, maxvit, timm's); `None` keeps the network's default.
        optimizer: `adamw`, `adam`, `sgd` (Nesterov momentum), `lars`, `muon`, or `file.Class` for a custom one.
        lr: Peak learning rate.
        weight_decay: Weight decay; never applied to norms, biases and other vectors.
        momentum: Momentum of `sgd`, `lars` and `muon`.
        betas: Decay rates of the two moments of `adamw` and `adam`.
        schedule: Per-step learning rate schedule after a linear warm-up: `cosine`, `one_cycle`, `exponential`,
            `plateau` or `constant`; or `file.name` for a custom one, see `lit_cv.optim.SCHEDULES`.
        warmup_epochs: Length of the warm-up in epochs, fractions allowed.
        min_lr: Final learning rate of the schedule.
        lr_scaling: Factor of `lr` for a total batch of B images over all devices and accumulated batches: `sqrt` for
            sqrt(B / 256), `linear` for B / 256, `none` for 1.
        compile: Whether to run the networks through `torch.compile` in training. The first steps then take minutes,
            and each new image size is compiled again. It pays off in long runs on a GPU, rarely on a CPU.
    """

    def __init__(
        self,
        backbone: str = "resnet9",
        weights: str | None = None,
        in_channels: int | None = None,
        image_size: int | list[int] | None = None,
        stem: Literal["auto", "standard", "small"] = "auto",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        spatial_dropout: float = 0.0,
        drop_path: float | None = None,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: ScheduleName = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        lr_scaling: Literal["none", "sqrt", "linear"] = "none",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        use_new_names(type(self), self.hparams)
        self._data_statistics: ChannelStatistics | None = None
        check_backbone_name(backbone)
        check_optimizer(optimizer)
        check_schedule(schedule)

    @abstractmethod
    def configure_head(self, num_features: int) -> nn.Module:
        """Return the network on top of the backbone; its input are features of shape (N, num_features)."""

    def configure_networks(self) -> None:
        """Build the backbone and the head, and set open hyperparameters from the DataModule.

        It runs once, before the networks are first needed. A subclass with further networks overrides it and calls
        `super().configure_networks()` first.
        """
        self._data_statistics = infer_from_data(self.hparams, datamodule_of(self._trainer))
        self.backbone = self.build_backbone(self.hparams["weights"])
        self.head = self.configure_head(self.backbone.num_features)

    def build_backbone(self, weights: str | Weights | None) -> Backbone:
        """Return a backbone built from the hyperparameters, with the given initial weights."""
        h = self.hparams
        return create_backbone(
            h["backbone"],
            in_channels=h["in_channels"],
            image_size=tuple(h["image_size"]) if isinstance(h["image_size"], list) else h["image_size"],
            stem=h["stem"],
            weights=weights,
            spatial_dropout=h["spatial_dropout"],
            drop_path=h["drop_path"],
            mean=h["mean"],
            std=h["std"],
            data_statistics=self._data_statistics,
        ).to(memory_format=torch.channels_last)  # convolutions are 1.1 to 1.9 times faster (measured)

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's output for raw images, (N, C, H, W) uint8 or float in [0, 1]."""
        self.configure_model()
        return cast(Tensor, self.head(self.backbone(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Return the learned features (N, num_features) of raw images."""
        self.configure_model()
        return cast(Tensor, self.backbone(images))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the `embedding` (N, num_features) and the dataset positions (`index`) of images."""
        return {"embedding": self.embed(batch["image"]), **{key: batch[key] for key in ("index",) if key in batch}}


if TYPE_CHECKING:

    def _as_contract(module: BaseModule) -> Module:
        return module
