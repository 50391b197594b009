"""The verb `find-lr`: train briefly at increasing learning rates, and plot the loss."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner
from torch.optim import Optimizer

from lit_cv.contracts import module_extras
from lit_cv.errors import OptionError, argument, setting
from lit_cv.figures import lr_curve_figure, render, save_png
from lit_cv.modules import BaseModule
from lit_cv.running.training import LitCLI

__all__ = ["FindLRCLI", "find_learning_rate", "suggest_lr"]

log = logging.getLogger("lit_cv")

_ENDLESS = 1_000_000  # epochs: the search ends by its number of steps
_MIN_STEPS = 20  # fewer make no readable curve


class FindLRCLI(LitCLI):
    """CLI with the options of `fit` that searches for a learning rate instead of training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the range of the search to the options of `fit`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--find_lr.min_lr", type=float, default=1e-6, help="Learning rate at the start of the search."
        )
        parser.add_argument("--find_lr.max_lr", type=float, default=1.0, help="Learning rate at the end of the search.")
        parser.add_argument("--find_lr.steps", type=int, default=100, help="Number of optimizer steps of the search.")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = "lit-cv find-lr [--config RECIPE] [--model CLASS] [--data CLASS] [options]"
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build a Trainer that leaves no files behind and has only the user's callbacks."""
        self.save_config_callback = None
        config = self.trainer_options(**kwargs)
        board = TensorBoardLogger(config["default_root_dir"] or ".", name="lightning_logs")
        self.folder = Path(board.log_dir)  # the next free one; created together with the figure
        self._scratch = tempfile.TemporaryDirectory(prefix="lit_cv_")
        config |= {
            "default_root_dir": self._scratch.name,
            "logger": False,
            "max_epochs": _ENDLESS,
            "max_steps": -1,
            "max_time": None,
            "fast_dev_run": False,
            "check_val_every_n_epoch": _ENDLESS,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return self._instantiate_trainer(config, [])

    def _run_subcommand(self, subcommand: str) -> None:
        options = self._get(self.config, "find_lr")
        try:
            rates, losses = find_learning_rate(self.trainer, self.model, self.datamodule, **vars(options))
        finally:
            self._scratch.cleanup()
        if not self.trainer.is_global_zero:
            return
        losses = smooth(losses)
        best = suggest_lr(rates, losses)
        path = self.folder / "find_lr.png"
        save_png(render(lr_curve_figure(rates, losses, best)), path)
        path = path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
        if best is None:
            log.warning("No learning rate is suggested: the loss does not decrease. Loss curve: %s", path)
            return
        backbone = ""
        if (backbone_lr := module_extras(self.model).backbone_lr) and self.model.hparams["lr"]:
            scaled = _rounded(backbone_lr * best / self.model.hparams["lr"])
            backbone = f" {setting('backbone_lr', scaled, self.model)}"
        lr = setting("lr", _rounded(best), self.model)
        log.info(
            "Suggested (a tenth of the learning rate with the lowest loss): %s%s\nLoss curve: %s", lr, backbone, path
        )


def find_learning_rate(
    trainer: L.Trainer,
    module: BaseModule,
    datamodule: L.LightningDataModule,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    steps: int = 100,
) -> tuple[list[float], list[float]]:
    """Train for some steps at increasing learning rates, with Lightning's Tuner (Smith 2017, section 3.3).

    The Tuner itself sets one learning rate for all parameter groups, skips the callbacks and `on_fit_start` of the
    module, and smooths the losses with a bias at the start. Here the groups keep the ratios of their learning rates,
    the callbacks change the batches as in training, and the losses are not smoothed.

    Args:
        trainer: The Trainer; its callbacks take part.
        module: The module; its weights are restored afterwards.
        datamodule: The data.
        min_lr: Learning rate of the first step, for the group that trains at the module's `lr`.
        max_lr: Learning rate of the last step.
        steps: Number of optimizer steps.

    Returns:
        The learning rates, and the loss at each. They end early if the running mean of the loss reaches four times
        its minimum.

    Raises:
        ValueError: If the range is empty or `steps` is too small.
    """
    if not 0 < min_lr < max_lr:
        allowed = f"must be a learning rate above 0 and below {argument('max_lr', find_learning_rate)}={max_lr}"
        raise OptionError(find_learning_rate, "min_lr", min_lr, allowed)
    if steps < _MIN_STEPS:
        raise OptionError(find_learning_rate, "steps", steps, f"must be at least {_MIN_STEPS}")
    callbacks = [c for c in trainer.callbacks if not type(c).__module__.startswith("lightning.")]  # type: ignore[attr-defined]
    losses: list[float] = []
    patches = {
        "configure_optimizers": _with_lr_ratios(module),
        "on_train_start": _chain(module.on_fit_start, module.on_train_start),
        "on_train_batch_start": _with_callbacks(callbacks, trainer, module),
        "on_train_batch_end": lambda outputs, batch, batch_idx: losses.append(float(outputs["loss"])),
    }
    for name, hook in patches.items():
        setattr(module, name, hook)
    try:
        search = Tuner(trainer).lr_find(
            module, datamodule=datamodule, min_lr=min_lr, max_lr=max_lr, num_training=steps, update_attr=False
        )
    finally:
        for name in patches:
            delattr(module, name)
    if search is None or not search.results:
        raise ValueError("the learning rate search was interrupted.")
    losses = losses[trainer.accumulate_grad_batches - 1 :: trainer.accumulate_grad_batches]
    return search.results["lr"][: len(losses)], losses[: len(search.results["lr"])]


def smooth(losses: Sequence[float]) -> list[float]:
    """Smooth the losses by a Gaussian kernel; NaN and infinity are left out."""
    values = np.asarray(losses, dtype=float)
    finite, steps = np.isfinite(values), np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / max(1.0, len(values) / 25)) ** 2) * finite
    return list((weights @ np.where(finite, values, 0.0)) / weights.sum(1))


def suggest_lr(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return a tenth of the learning rate with the lowest smoothed loss (fastai's rule), `None` if it never decreases.

    Lightning's suggestion, the steepest slope over the linear learning rate, depends on noise at the smallest rates.

    Example:
        >>> rates = [10.0 ** (k / 10 - 5) for k in range(50)]
        >>> suggest_lr(rates, [(k - 35) ** 2 for k in range(50)])
        0.003162
    """
    least = int(np.argmin(losses))
    return float(f"{rates[least] / 10:.4g}") if least > 0 else None


def _rounded(lr: float) -> float:
    return float(f"{lr:.2g}")


def _with_lr_ratios(module: BaseModule) -> Callable[[], Any]:
    configure = module.configure_optimizers

    def configure_optimizers() -> Any:
        configured: Any = configure()
        optimizer: Optimizer = configured["optimizer"]
        lr = module.hparams["lr"] or max(group["lr"] for group in optimizer.param_groups)
        ratios = [group.get("initial_lr", group["lr"]) / lr for group in optimizer.param_groups]

        def scale(optimizer: Optimizer, *args: Any) -> None:
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["unscaled_lr"], group["lr"] = group["lr"], group["lr"] * ratio

        def restore(optimizer: Optimizer, *args: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = group.pop("unscaled_lr")

        optimizer.register_step_pre_hook(scale)
        optimizer.register_step_post_hook(restore)
        return configured

    return configure_optimizers


def _chain(first: Callable[[], None], then: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        then()

    return both


def _with_callbacks(
    callbacks: Sequence[L.Callback], trainer: L.Trainer, module: BaseModule
) -> Callable[[Any, int], None]:
    module_hook = module.on_train_batch_start

    def on_train_batch_start(batch: Any, batch_idx: int) -> None:
        for callback in callbacks:
            callback.on_train_batch_start(trainer, module, batch, batch_idx)
        module_hook(batch, batch_idx)

    return on_train_batch_start
