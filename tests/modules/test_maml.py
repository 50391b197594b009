"""MAML's gradient against an explicit unrolled computation and finite differences, and its BatchNorm."""

from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv import MAMLModule
from lit_cv.optim.inner_loop import inner_loop
from tests.modules.episodes import build, episode_batch, marks, trainer


def double(**kwargs: Any) -> Any:
    module = build(MAMLModule, **{"way": 3, "inner_lr": 0.1} | kwargs).double().train()
    for norm in module.modules():  # scaled so that the inner step matters
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    return module


def unrolled(module: Any, batch: dict[str, Any], steps: int, create_graph: bool, anil: bool = False) -> Tensor:
    """Return the outer loss, computed explicitly with torch.autograd and functional layers."""
    names = [name for name, _ in module.named_parameters() if name.startswith(("backbone.body", "head"))]

    def run(weights: dict[str, Tensor], images: Tensor) -> Tensor:
        x = (images.double() / 255 - module.backbone.mean) / module.backbone.std
        for block in range(4):
            prefix = f"backbone.body.blocks.{block}"
            x = F.conv2d(x, weights[f"{prefix}.0.weight"], padding=1)
            x = F.batch_norm(x, None, None, weights[f"{prefix}.1.weight"], weights[f"{prefix}.1.bias"], training=True)
            x = F.max_pool2d(F.relu(x), 2, ceil_mode=True)
        return F.linear(x.mean((2, 3)), weights["head.linear.weight"], weights["head.linear.bias"])

    losses = []
    for b in range(2):
        weights = {name: module.get_parameter(name) for name in names}
        for _ in range(steps):
            moved = {name: w for name, w in weights.items() if not anil or name.startswith("head")}
            loss = F.cross_entropy(run(weights, batch["support"]["image"][b]), batch["support"]["label"][b])
            gradients = torch.autograd.grad(loss, list(moved.values()), create_graph=create_graph)
            weights = weights | {n: w - 0.1 * g for (n, w), g in zip(moved.items(), gradients, strict=True)}
        losses.append(F.cross_entropy(run(weights, batch["query"]["image"][b]), batch["query"]["label"][b]))
    return torch.stack(losses).mean()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("anil", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_matches_unrolled_computation(first_order: bool, anil: bool, steps: int) -> None:
    module, batch = double(first_order=first_order, anil=anil, inner_steps=steps), episode_batch()
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = module.step(batch, "train")["loss"]
    expected = unrolled(module, batch, steps, create_graph=not first_order, anil=anil)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    actual, reference = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    for a, b in zip(actual, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    options = {"first_order": not first_order, "anil": anil, "inner_steps": steps}
    switched = build(MAMLModule, way=3, inner_lr=0.1, **options).double().train()
    switched.load_state_dict(module.state_dict())
    different = torch.autograd.grad(switched.step(batch, "train")["loss"], list(switched.parameters()))
    assert (
        max((a - b).abs().max() for a, b in zip(actual, different, strict=True)) > 1e-3
    )  # first and second order do differ


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_norm": "support"}, {"learn_inner_lr": True}, {"anil": True}, {"backbone": "vit_micro_p8"}],
)
def test_gradient_matches_finite_differences(options: dict[str, Any]) -> None:
    module, batch = double(**options), episode_batch()
    module.step(batch, "train")["loss"].backward()
    generator = torch.Generator().manual_seed(0)
    if "backbone" in options:  # attention has a second derivative
        names = ["backbone.body.blocks.0.attn.qkv.weight", "head.linear.weight"]
    else:
        names = ["backbone.body.blocks.3.0.weight", "backbone.body.blocks.2.1.weight", "head.linear.weight"]
    names += ["inner_lrs.head_linear", "inner_lrs.backbone_body_blocks_1_0"] if "learn_inner_lr" in options else []
    for name in names:
        parameter = module.get_parameter(name)
        place = torch.unravel_index(torch.randint(parameter.numel(), (), generator=generator), parameter.shape)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[place] += step
            values.append(float(module.step(batch, "train")["loss"].detach()))
            with torch.no_grad():
                parameter[place] -= step
        assert float(parameter.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3, abs=1e-7)


def test_inner_loop_matches_direct_computation() -> None:
    w, rate = torch.tensor(3.0, dtype=torch.float64, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    after = inner_loop(lambda p: p["w"] ** 3, {"w": w}, {"w": rate}, steps=1)["w"]
    slope, of_rate = torch.autograd.grad(after, (w, rate))
    assert (after.detach().item(), slope.item()) == pytest.approx((3 - 0.1 * 27, 1 - 0.1 * 18))
    assert of_rate.item() == pytest.approx(-27)
    first = inner_loop(lambda p: p["w"] ** 3, {"w": w}, {"w": 0.1}, steps=2, first_order=True)["w"]
    assert torch.autograd.grad(first, w)[0].item() == 1


def test_first_order_passes_no_gradient_to_other_inputs() -> None:
    w, x = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    after = inner_loop(lambda p: p["w"] ** 2 * x, {"w": w}, {"w": 0.1}, steps=2)["w"]
    assert torch.autograd.grad(after, x)[0].abs() > 0.1
    first = inner_loop(lambda p: p["w"] ** 2 * x, {"w": w}, {"w": 0.1}, steps=2, first_order=True)["w"]
    assert first.item() == pytest.approx(after.item())
    assert torch.autograd.grad(first, (w, x), allow_unused=True) == (1, None)


def test_evaluation_adapts_without_recording_gradients() -> None:
    module, batch = build(MAMLModule, way=3).eval(), episode_batch()
    with torch.inference_mode():  # as in Lightning's evaluation
        inside = {part: {k: v.clone() for k, v in batch[part].items()} for part in ("support", "query")}
        logits = module.episode_logits(inside, 3, "val")
    assert logits.grad_fn is None
    torch.testing.assert_close(logits, module.train().episode_logits(batch, 3, "train").detach(), rtol=1e-4, atol=1e-5)
    module.hparams["inner_lr"] = 1e-12
    assert (module.episode_logits(batch, 3, "val") - logits).abs().max() > 0.1
    assert all(p.grad is None for p in module.parameters())


def test_eval_steps() -> None:
    batch = episode_batch()
    module = build(MAMLModule, way=3, inner_steps=1, eval_steps=3, inner_lr=0.05).eval()
    three = build(MAMLModule, way=3, inner_steps=3, inner_lr=0.05).eval()
    one = build(MAMLModule, way=3, inner_steps=1, inner_lr=0.05).eval()
    torch.testing.assert_close(module.episode_logits(batch, 3, "val"), three.episode_logits(batch, 3, "val"))
    torch.testing.assert_close(module.episode_logits(batch, 3, "train"), one.episode_logits(batch, 3, "train"))


def test_batch_norm_statistics() -> None:
    batch = episode_batch(count=1)
    alone = {**batch, "query": {key: value[:, :1] for key, value in batch["query"].items()}}
    for mode, same in (("transductive", False), ("support", True)):
        module = build(MAMLModule, way=3, batch_norm=mode).eval()
        together, first = (module.episode_logits(b, 3, "val")[0, 0] for b in (batch, alone))
        assert torch.allclose(together, first, rtol=1e-3, atol=1e-4) == same
        with torch.no_grad():
            for norm in module.modules():
                if isinstance(norm, torch.nn.BatchNorm2d):
                    norm.running_mean.add_(5)
        assert torch.equal(module.episode_logits(batch, 3, "val")[0, 0], together)  # running statistics are not used


@pytest.mark.slow
def test_running_statistics_are_updated() -> None:
    module, batch = build(MAMLModule, way=3, lr=1e-9), episode_batch()
    norm = module.backbone.body.blocks[0][1]
    module.eval().episode_logits(batch, 3, "val")
    assert norm.num_batches_tracked == 0
    module.train()
    for _ in range(60):
        module.episode_logits(batch, 3, "train")
    x = module.backbone.body.blocks[0][0](module.backbone.normalize(batch["query"]["image"].flatten(0, 1)))
    assert norm.num_batches_tracked == 120
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=0.2, atol=0.1)


@pytest.mark.slow
@pytest.mark.learns
def test_learned_inner_lrs_are_in_optimizer_and_checkpoint(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    module = MAMLModule(inner_lr=0.1, learn_inner_lr=True, lr=1e-2)
    trainer(1).fit(module, marks(batch_size=4, val_episodes=3))
    assert module.hparams["way"] == 3
    rates = {name: float(rate.detach()) for name, rate in module.inner_lrs.items()}
    assert len(rates) == 9  # convolution and norm of four blocks, and the head
    assert all(rate != pytest.approx(0.1, abs=1e-6) for rate in rates.values())
    assert "inner_lrs.head_linear" in module.state_dict()
    assert set(build(MAMLModule, way=3, anil=True, learn_inner_lr=True).inner_lrs) == {"head_linear"}


def test_network_without_batch_norm() -> None:
    module = build(MAMLModule, way=3, backbone="squeezenet1_1", image_size=32, inner_lr=0.01)
    module.train().step(episode_batch(size=32), "train")["loss"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
