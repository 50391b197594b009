"""`find-lr`: its losses match training, and it leaves only a figure behind."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from datamodules import DigitsDataModule
from lit_cv import FineTuneModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.figures import lr_curve_figure, render
from lit_cv.running.find_lr import find_learning_rate, smooth, suggest_lr

pytestmark = pytest.mark.draws

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "max_epochs": 1000,
}  # fmt: skip
RUN = ["--data.batch_size", "32", "--trainer.accelerator", "cpu", "--find_lr.steps", "40"]


@pytest.mark.slow
def test_find_lr_writes_only_a_figure(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["find-lr", "--config", "supervised", *RUN])
    files = [str(path.relative_to(in_tmp)) for path in in_tmp.rglob("*") if path.is_file()]
    assert files == ["lightning_logs/version_0/find_lr.png"]
    assert not list(Path("/tmp").glob("lit_cv_*/.lr_find*"))
    text = capsys.readouterr().err
    assert "--model.lr" in text
    assert "find_lr.png" in text
    main(["find-lr", "--config", "supervised", *RUN, "--model.lr", "1"])
    assert (in_tmp / "lightning_logs" / "version_1" / "find_lr.png").is_file()


@pytest.mark.learns
def test_losses_match_training_at_increasing_lr(seed: int) -> None:
    def losses(search: bool) -> list[float]:
        L.seed_everything(seed, verbose=False)
        module = SupervisedModule(backbone="conv4", optimizer="sgd", momentum=0.0, weight_decay=0.0)
        data = DigitsDataModule(batch_size=32)
        if search:
            return find_learning_rate(L.Trainer(**QUIET), module, data, 1e-4, 1e-1, steps=20)[1]
        seen: list[float] = []

        class Rates(L.Callback):
            """Sets the learning rates by the formula of the search."""

            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
                if batch_idx > 1:
                    trainer.optimizers[0].param_groups[0]["lr"] = 1e-4 * 1000 ** ((batch_idx + 1) / 20)
                    trainer.optimizers[0].param_groups[1]["lr"] = 1e-4 * 1000 ** ((batch_idx + 1) / 20)
                else:
                    for group in trainer.optimizers[0].param_groups:
                        group["lr"] = 1e-4 if batch_idx == 0 else 1e-4 * 1000 ** (2 / 20)

            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
                seen.append(float(outputs["loss"]))

        L.Trainer(**QUIET | {"max_steps": 20}, callbacks=[Rates()]).fit(module, data)
        return seen

    searched = losses(True)
    assert searched == pytest.approx(losses(False), rel=1e-5)
    assert len(searched) == 20
    assert searched[-1] < searched[0]


def test_groups_keep_lr_ratios_and_callbacks_run() -> None:
    rates: list[tuple[float, ...]] = []
    batches: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            batches.append(batch_idx)
            if batch_idx == 0:
                trainer.optimizers[0].register_step_pre_hook(
                    lambda optimizer, *args: rates.append(tuple(group["lr"] for group in optimizer.param_groups))
                )

    module = FineTuneModule(
        backbone="conv4", strategy="gradual_unfreezing", unfreeze_epochs=[0, 1], backbone_lr=2e-5, layer_decay=0.5
    )
    data = DigitsDataModule(batch_size=64, labels_per_class=32)
    before = {}

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            before.setdefault("state", {name: value.clone() for name, value in module.state_dict().items()})

    trainer = L.Trainer(**QUIET, callbacks=[Keep(), Watch()])
    searched, _ = find_learning_rate(trainer, module, data, min_lr=1e-6, max_lr=1e-3, steps=20)
    assert len(batches) == 20
    assert searched[0] == 1e-6
    assert searched[-1] == pytest.approx(1e-3, rel=0.5)
    for head, _, last, *_ in rates:  # the only unfrozen stage at the start
        assert last == pytest.approx(head * 0.01)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before["state"][name]), name
    assert not {"configure_optimizers", "on_train_start", "on_train_batch_start"} & vars(module).keys()


@pytest.mark.slow
def test_find_lr_with_cached_features(in_tmp: Path) -> None:
    model = ["--model", "FineTuneModule", "--model.backbone", "conv4", "--data", "DigitsDataModule"]
    options = ["--model.strategy", "feature_extraction", "--model.cache_features", "true"]
    main(["find-lr", *model, *options, *RUN])
    assert (in_tmp / "lightning_logs" / "version_0" / "find_lr.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--find_lr.min_lr", "1", "--find_lr.max_lr", "0.1"],
            "min_lr=1.0: must be a learning rate above 0 and below --find_lr.max_lr=0.1",
        ),
        (["--find_lr.steps", "3"], "steps=3: must be at least 20"),
    ],
)
def test_invalid_ranges(in_tmp: Path, options: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        main(["find-lr", "--config", "supervised", *RUN, *options])
    assert list(in_tmp.rglob("*")) == []


def test_suggestion_is_a_tenth_of_the_best_lr() -> None:
    rates = list(np.logspace(-6, 0, 100))
    clean = (np.log10(rates) + 2) ** 2
    noisy = clean + np.random.RandomState(0).normal(0, 0.3, 100)
    assert suggest_lr(rates, smooth(noisy)) == pytest.approx(1e-3, rel=0.5)
    assert suggest_lr(rates, list(np.arange(100.0))) is None
    assert np.isfinite(smooth([1.0, float("nan"), 2.0])).all()
    figure = render(lr_curve_figure(rates, list(clean), 1e-3))
    assert figure.std() > 5
