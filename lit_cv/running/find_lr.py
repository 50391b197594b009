"""The verb `find-lr`: a short training at rising learning rates, and the curve of its loss."""

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

__all__ = ["FindLRCLI", "find_learning_rate", "suggest_rate"]

log = logging.getLogger("lit_cv")

_ENDLESS = 1_000_000  # epochs: the number of steps ends the search
_LEAST = 20  # steps from which a curve can be read


class FindLRCLI(LitCLI):
    """Takes the options of `fit`, and looks for a learning rate in place of training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the range of the search to the options of `fit`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--find_lr.min_lr", type=float, default=1e-6, help="Learning rate that the search starts at."
        )
        parser.add_argument("--find_lr.max_lr", type=float, default=1.0, help="Learning rate that the search ends at.")
        parser.add_argument("--find_lr.steps", type=int, default=100, help="Optimizer steps of the search.")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = "lit-cv find-lr [--config RECIPE] [--model CLASS] [--data CLASS] [options]"
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build a Trainer that leaves nothing behind, with the given callbacks alone."""
        self.save_config_callback = None
        config = self.trainer_options(**kwargs)
        board = TensorBoardLogger(config["default_root_dir"] or ".", name="lightning_logs")
        self.folder = Path(board.log_dir)  # the next free one; it is made with the picture
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
        best = suggest_rate(rates, losses)
        path = self.folder / "find_lr.png"
        save_png(render(lr_curve_figure(rates, losses, best)), path)
        path = path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
        if best is None:
            log.warning("The loss does not fall: no learning rate is suggested. Its curve: %s", path)
            return
        more = ""
        if (before := module_extras(self.model).backbone_lr) and self.model.hparams["lr"]:
            rate = _rounded(before * best / self.model.hparams["lr"])
            more = f" {setting('backbone_lr', rate, self.model)}"
        found = setting("lr", _rounded(best), self.model)
        log.info("Suggested, a tenth of where the loss is least: %s%s\nIts curve: %s", found, more, path)


def find_learning_rate(
    trainer: L.Trainer,
    module: BaseModule,
    datamodule: L.LightningDataModule,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    steps: int = 100,
) -> tuple[list[float], list[float]]:
    """Train for some steps at rising learning rates, with Lightning's Tuner (Smith 2017, section 3.3).

    The Tuner gives one rate to all parameter groups, leaves out the callbacks and what a module does when a fit
    starts, and keeps a mean of the losses that starts at half of the first. Here groups keep their ratios, the
    callbacks change the batches as they do in training, and the losses are those of the steps.

    Args:
        trainer: The Trainer; its callbacks are those that take part.
        module: The module; its weights are restored.
        datamodule: The data.
        min_lr: Learning rate of the first step; that of the group whose rate is the module's `lr`.
        max_lr: Learning rate of the last.
        steps: Optimizer steps.

    Returns:
        The rates, and the loss at each. They end where the running mean of the loss is four times the least.

    Raises:
        ValueError: If the range is empty or there are too few steps.
    """
    if not 0 < min_lr < max_lr:
        above = f"give a rate above 0 and below {argument('max_lr', find_learning_rate)}={max_lr}"
        raise OptionError(find_learning_rate, "min_lr", min_lr, above)
    if steps < _LEAST:
        raise OptionError(find_learning_rate, "steps", steps, f"give at least {_LEAST}")
    callbacks = [c for c in trainer.callbacks if not type(c).__module__.startswith("lightning.")]  # type: ignore[attr-defined]
    losses: list[float] = []
    patches = {
        "configure_optimizers": _keeping_ratios(module),
        "on_train_start": _after(module.on_fit_start, module.on_train_start),
        "on_train_batch_start": _running(callbacks, trainer, module),
        "on_train_batch_end": lambda outputs, batch, batch_idx: losses.append(float(outputs["loss"])),
    }
    for name, hook in patches.items():
        setattr(module, name, hook)
    try:
        found = Tuner(trainer).lr_find(
            module, datamodule=datamodule, min_lr=min_lr, max_lr=max_lr, num_training=steps, update_attr=False
        )
    finally:
        for name in patches:
            delattr(module, name)
    if found is None or not found.results:
        raise ValueError("the search for a learning rate was interrupted.")
    losses = losses[trainer.accumulate_grad_batches - 1 :: trainer.accumulate_grad_batches]
    return found.results["lr"][: len(losses)], losses[: len(found.results["lr"])]


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the losses averaged over their neighbours, with weights of a normal curve; NaN is left out."""
    values = np.asarray(losses, dtype=float)
    there, steps = np.isfinite(values), np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / max(1.0, len(values) / 25)) ** 2) * there
    return list((weights @ np.where(there, values, 0.0)) / weights.sum(1))


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return a tenth of the rate at which a smooth loss is least (fastai's rule), `None` where it never falls.

    Lightning's own suggestion, the steepest slope over the plain rate, is decided by noise at the smallest rates.

    Example:
        >>> rates = [10.0 ** (k / 10 - 5) for k in range(50)]
        >>> suggest_rate(rates, [(k - 35) ** 2 for k in range(50)])
        0.003162
    """
    least = int(np.argmin(losses))
    return float(f"{rates[least] / 10:.4g}") if least > 0 else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _keeping_ratios(module: BaseModule) -> Callable[[], Any]:
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


def _after(first: Callable[[], None], then: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        then()

    return both


def _running(callbacks: Sequence[L.Callback], trainer: L.Trainer, module: BaseModule) -> Callable[[Any, int], None]:
    own = module.on_train_batch_start

    def on_train_batch_start(batch: Any, batch_idx: int) -> None:
        for callback in callbacks:
            callback.on_train_batch_start(trainer, module, batch, batch_idx)
        own(batch, batch_idx)

    return on_train_batch_start
