import itertools
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from datamodules import InMemoryDataset, ResumableLoader
from lit_cv.callbacks import EMA, NonFiniteGuard, RunCheckpoint
from lit_cv.callbacks.non_finite import NonFiniteError
from lit_cv.cli import main
from lit_cv.modules.running_means import RunningMeans
from tests.callbacks.tiny import trainer

NAN, INF = math.nan, math.inf


class Net(L.LightningModule):
    """Regression on images, with a broken loss, gradient or input in some batches."""

    def __init__(self, where: str = "loss", value: float = NAN, batches: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(1), nn.Linear(4, 1)
        self.where, self.value, self.batches = where, value, batches
        self.means = {"train": RunningMeans()}
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        count = self.current_epoch * 4 + batch_idx
        image = batch["image"] / 255
        broken = count in self.batches
        if broken and self.where == "input":
            batch["image"] = image = image.clone()
            image[3, 0, 0, 1] = self.value
        loss = self.layer(self.norm(image).flatten(1)).square().mean()
        if broken and self.where == "loss":
            loss = loss * self.value
        if broken and self.where == "constant":  # the gradient stays finite
            loss = loss + self.value
        if broken and self.where == "gradient":
            self.layer.bias.register_hook(_once(self.value))
        self.means["train"].update({"loss": loss}, len(image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


def _once(value: float) -> Any:
    left = [value]
    return lambda grad: grad + left.pop() if left else grad


def loader() -> ResumableLoader:
    images = torch.arange(16 * 4).view(16, 1, 2, 2).to(torch.uint8)
    dataset = InMemoryDataset(images, torch.zeros(16, dtype=torch.int64), names=[f"{k}.png" for k in range(16)])
    return ResumableLoader(dataset, batch_size=4)


def fit(folder: Path, module: Net, guard: NonFiniteGuard | None = None, **kwargs: Any) -> L.Trainer:
    callbacks = [guard or NonFiniteGuard(), RunCheckpoint(every_n_steps=1), *kwargs.pop("callbacks", [])]
    run = trainer(folder, max_epochs=3, callbacks=callbacks, log_every_n_steps=1, **kwargs)
    run.fit(module, loader())
    return run


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("loss", NAN, r"the loss is nan at step 5 \(epoch 1, batch 1\). Its batch: 4.png, 5.png, 6.png, 7.png"),
        ("loss", INF, "the loss is inf at step 5"),
        ("constant", -INF, "the loss is -inf at step 5"),
        ("gradient", NAN, "the gradient of layer.bias is not finite at step 5 .* Its batch: 4.png"),
        ("gradient", INF, "the gradient of layer.bias is not finite at step 5"),
        ("input", NAN, "the loss is nan at step 5 .* Not finite in its batch: image of 7.png"),
    ],
)
def test_error_names_step_images_and_checkpoint(tmp_path: Path, where: str, value: float, message: str) -> None:
    with pytest.raises(NonFiniteError, match=message) as caught:
        fit(tmp_path, Net(where, value))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert f"Last good checkpoint: {last}" in str(caught.value)
    assert "`action='skip'`" in str(caught.value)
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert all(value.isfinite().all() for value in weights(last).values())


@pytest.mark.parametrize("where", ["loss", "constant", "gradient", "input"])
def test_skipped_step_changes_nothing(tmp_path: Path, where: str, caplog: Any) -> None:
    module, guard = Net(where, NAN, (5, 7)), NonFiniteGuard("skip")
    before: list[dict[str, Tensor]] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            state = {name: value.clone() for name, value in pl_module.state_dict().items()}
            moments = trainer.optimizers[0].state_dict()["state"]
            before.append({**state, **{f"{k}_{n}": v.clone() for k, s in moments.items() for n, v in s.items()}})

    run = fit(tmp_path, module, guard, callbacks=[Watch()])
    assert run.global_step == 12
    assert guard.skipped == 2
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(before)]
    assert [position + 1 for position, equal in enumerate(same) if equal] == [5, 7]
    assert all(value.isfinite().all() for value in before[-1].values())
    assert module.means["train"].compute()["loss"].isfinite()
    assert float(run.callback_metrics["skipped_steps"]) == 2
    assert len({record.getMessage() for record in caplog.records if "Skipped step" in record.getMessage()}) == 2


def test_all_accumulated_batches_are_skipped(tmp_path: Path) -> None:
    module, guard = Net("loss", NAN, (4,)), NonFiniteGuard("skip")
    run = fit(tmp_path, module, guard, accumulate_grad_batches=2)
    assert (run.global_step, guard.skipped) == (6, 1)
    assert all(value.isfinite().all() for value in module.state_dict().values())
    with pytest.raises(NonFiniteError, match=r"at step 2 \(epoch 1, batch 1\). Its batch: 4.png"):
        fit(tmp_path, Net("loss", NAN, (5,)), accumulate_grad_batches=2)


def test_max_consecutive_ends_the_run_also_after_resume(tmp_path: Path) -> None:
    module, guard = Net("loss", NAN, (1, 3, 4, 5, 6)), NonFiniteGuard("skip", max_consecutive=3)
    with pytest.raises(NonFiniteError, match=r"more than 3 consecutive steps were skipped .* at step 6"):
        fit(tmp_path, module, guard)
    resumed = NonFiniteGuard("skip", max_consecutive=3)
    run = trainer(tmp_path, max_epochs=3, callbacks=[resumed, RunCheckpoint()])
    with pytest.raises(NonFiniteError, match="at step 6"):
        run.fit(module, loader(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert resumed.skipped == 5


def test_moving_average_stays_finite(tmp_path: Path) -> None:
    module = Net("input", NAN, (5,))
    fit(tmp_path, module, NonFiniteGuard("skip"), callbacks=[EMA(0.9)])
    assert all(value.isfinite().all() for value in module.state_dict().values())


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_scaler_still_works(tmp_path: Path, fused: bool) -> None:
    def half() -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**16))

    class Fused(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1, fused=fused)

    precision = half()
    run = fit(tmp_path / "a", Fused("gradient", INF), plugins=[precision])
    assert run.global_step == 12
    assert precision.scaler is not None
    assert precision.scaler.get_scale() < 2.0**16
    with pytest.raises(NonFiniteError, match="the loss is nan at step 5"):
        fit(tmp_path / "b", Fused("loss", NAN), plugins=[half()])
    module, guard = Fused("constant", NAN), NonFiniteGuard("skip")
    fit(tmp_path / "c", module, guard, plugins=[half()])
    assert guard.skipped == 1
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_all_ranks_skip_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated second rank reports that its loss of the sixth step is not finite."""
    asked: list[float] = []

    def all_reduce(flag: Tensor, op: Any) -> None:
        asked.append(float(flag))
        flag.fill_(float(flag) or len(asked) == 6)

    monkeypatch.setattr("lit_cv.callbacks.non_finite.is_distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    guard = NonFiniteGuard("skip")
    run = fit(tmp_path, Net(batches=(2,)), guard)
    assert (guard.skipped, run.global_step) == (2, 12)
    assert asked == [0, 0, 1, *[0] * 9]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_deferred_check_before_checkpoint(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = NonFiniteGuard()

    def deferred(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        NonFiniteGuard.on_train_start(guard, trainer, pl_module)
        guard._deferred = True

    monkeypatch.setattr(guard, "on_train_start", deferred)
    run = trainer(tmp_path, max_epochs=3, callbacks=[guard, RunCheckpoint()], log_every_n_steps=50)
    with pytest.raises(NonFiniteError, match=r"between step 4 and step 7 \(epoch 1\). Its batch: 0.png.* 8 more"):
        run.fit(Net(where), loader())
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert all(value.isfinite().all() for value in weights(last).values())


def test_no_checkpoint_of_non_finite_weights(tmp_path: Path) -> None:
    class Burst(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            if trainer.global_step == 6:
                pl_module.layer.weight.data[0, 1] = INF

    run = trainer(tmp_path, max_epochs=3, callbacks=[Burst(), NonFiniteGuard(), RunCheckpoint(every_n_steps=1)])
    with pytest.raises(NonFiniteError, match=r"layer\.weight is not finite after step 5: no checkpoint was written"):
        run.fit(Net(batches=()), loader())
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_ignore_checks_nothing(tmp_path: Path) -> None:
    module = Net("loss", NAN)
    fit(tmp_path, module, NonFiniteGuard("ignore"))
    assert module.layer.weight.isnan().any()


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"action": "stop"}, "action='stop'"), ({"max_consecutive": 0}, "max_consecutive=0")]
)
def test_error_names_argument(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonFiniteGuard(**kwargs)


def test_cli(in_tmp: Path) -> None:
    args = [
        "fit", "--config", "supervised", "--model.lr", "1e38", "--model.optimizer", "sgd", "--model.warmup_epochs", "0",
        "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.enable_model_summary", "false",
    ]  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step \d .* Its batch: \d+, .* and 24 more"):
        main(args)

    assert not list(in_tmp.glob("lightning_logs/version_0/checkpoints/*"))
