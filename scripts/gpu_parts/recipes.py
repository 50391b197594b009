"""Each recipe for ten steps in each precision, on built-in or generated data."""

import math
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
import yaml

from gpu_parts.generated_data import DATA_OPTIONS, install_generated_sets
from gpu_parts.setting import ROOT, Setting, require
from lit_cv.cli import main as lit_cv
from lit_cv.figures import canvas

__all__ = ["StepLosses", "fit_recipe", "items", "run"]

STEPS = 10
PRECISIONS = ("bf16-mixed", "32-true", "16-mixed")
TINY = ("supervised 32-true", "supervised bf16-mixed")
NEEDS_CHECKPOINT = {
    "distillation": ("model.teacher_weights", "supervised"),
    "imagefolder_distillation": ("model.teacher_weights", "imagefolder_supervised"),
    "source_free": ("model.weights", "filled_shapes"),
}
"""Recipes that start from a checkpoint: the option, and the recipe whose checkpoint it gets."""

TESTED = ("nearest_centroid",)
"""Recipes for `test`, which train nothing."""

FILLED_SHAPES = (
    "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "ShapesDataModule", "--data.image_size", "32",
    "--data.num_images", "400",
)  # fmt: skip


class StepLosses(L.Callback):
    """Records the loss of every step."""

    losses: ClassVar[list[Any]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Keep the loss on its device."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self.losses.append(loss.detach())


def items(setting: Setting) -> dict[str, list[str]]:
    """Return recipe and precision of each check, the most important precision first."""
    if setting.tiny and not setting.recipes:
        return {"items": list(TINY)}
    shipped = sorted(path.stem for path in (ROOT / "lit_cv" / "recipes").glob("*.yaml"))
    names = setting.recipes or sorted(shipped, key=_is_generated)
    return {"items": [f"{name} {precision}" for precision in PRECISIONS for name in names]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Train a recipe for some steps, with a validation after each half, and check that all losses are finite."""
    name, precision = item.split()
    if name in TESTED:
        return _test(name, precision, setting)
    trained = fit_recipe(name, setting, {"trainer.precision": precision, "trainer.gradient_clip_val": 1.0})
    losses = torch.stack([loss.float().mean() for loss in StepLosses.losses]).tolist() if StepLosses.losses else []
    metrics = {key: float(value) for key, value in trained.trainer.callback_metrics.items()}
    not_finite = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
    require(not not_finite, f"the losses of steps {not_finite} are not finite")
    require(bool(losses) or "linear_probe" in name, "no step was trained")
    broken = [key for key, value in metrics.items() if "loss" in key and not math.isfinite(value)]
    require(not broken, f"{', '.join(broken)} is not finite")
    return {"steps": len(losses), "loss": round(losses[-1], 4) if losses else None}


def fit_recipe(name: str, setting: Setting, options: dict[str, Any], folder: Path | None = None) -> Any:
    """Run `lit-cv fit` with a recipe, and return the command line with its Trainer and module.

    Args:
        name: The recipe, or `filled_shapes`.
        setting: How the parts run.
        options: Further options by name.
        folder: Folder of the run; None makes a new one.
    """
    install_generated_sets()
    if setting.tiny:  # drawing takes longer than training
        canvas._build = lambda function: canvas.new_figure(1, 1)
    StepLosses.losses.clear()
    merged = {**_limits(setting, folder or setting.new_folder(name)), **_data_options(name, setting)}
    if name in NEEDS_CHECKPOINT:
        option, source = NEEDS_CHECKPOINT[name]
        merged[option] = _checkpoint(source, setting)
        if "teacher" in option:
            merged["model.teacher"] = "null"  # the checkpoint's
        StepLosses.losses.clear()
    recipe = FILLED_SHAPES if name == "filled_shapes" else ("--config", name)
    tokens = [text for key, value in {**merged, **options}.items() for text in (f"--{key}", str(value))]
    return lit_cv(["fit", *recipe, *tokens, "--trainer.callbacks+=gpu_parts.recipes.StepLosses"])


@cache
def _checkpoint(source: str, setting: Setting) -> str:
    """Train two steps, and return the checkpoint."""
    folder = setting.new_folder(source)
    options = {"model.weights": "null"} if source.startswith("imagefolder") else {}
    fit_recipe(source, setting, {"trainer.max_steps": 2, "trainer.precision": "32-true", **options}, folder)
    return str(folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")


def _test(name: str, precision: str, setting: Setting) -> dict[str, Any]:
    kept = ("default_root_dir", "accelerator", "devices", "progress_bar")
    limits = {key: value for key, value in _limits(setting, setting.new_folder(name)).items() if key.endswith(kept)}
    tokens = [text for key, value in limits.items() for text in (f"--{key}", str(value))]
    tested = lit_cv(["test", "--config", name, *tokens, "--trainer.precision", precision])
    assert tested is not None
    metrics = {key: float(value) for key, value in tested.trainer.callback_metrics.items()}
    require(bool(metrics) and all(map(math.isfinite, metrics.values())), f"not finite: {metrics}")
    return {"metrics": len(metrics)}


def _limits(setting: Setting, folder: Path) -> dict[str, Any]:
    return {
        "trainer.max_steps": 4 if setting.tiny else STEPS,
        "trainer.limit_train_batches": 2 if setting.tiny else STEPS // 2,
        "trainer.limit_val_batches": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "gpu" if setting.device == "cuda" else "cpu",
        "trainer.devices": 1,
    }


def _data_options(name: str, setting: Setting) -> dict[str, Any]:
    """Return the options that point a recipe to generated data."""
    for prefix, options in DATA_OPTIONS.items():
        if name.startswith(prefix):
            changes = options(Path(setting.folder))
            weights = _recipe(name)["model"]["init_args"].get("weights")
            return {**changes, "model.weights": "null"} if weights == "DEFAULT" else changes
    return {}


def _recipe(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "lit_cv" / "recipes" / f"{name}.yaml").read_text("utf-8"))
    return loaded


def _is_generated(name: str) -> bool:
    return name.startswith(tuple(DATA_OPTIONS))
