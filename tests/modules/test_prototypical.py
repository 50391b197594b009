"""Prototypes, distances and losses, compared with hand-computed cases and plain formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cv import PrototypicalModule
from tests.modules.episodes import build, episode_batch


def test_prototypes_are_class_means() -> None:
    module = build(PrototypicalModule)
    features = torch.tensor([[[0.0, 1.0], [4.0, 4.0], [2.0, 5.0], [6.0, 0.0], [2.0, 3.0]]])
    means = module.represent(features, torch.tensor([[1, 0, 1, 0, 1]]), 2)
    torch.testing.assert_close(means, torch.tensor([[[5.0, 2.0], [4 / 3, 3.0]]]))


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("squared_euclidean", [[-9.0, -16.0], [-18.0, -1.0]]),
        ("euclidean", [[-3.0, -4.0], [-math.sqrt(18), -1.0]]),
        ("cosine", [[0.0, 0.0], [1 / math.sqrt(2), 1.0]]),
    ],
)
def test_distances_match_hand_computed_values(distance: Any, expected: list[list[float]]) -> None:
    module = build(PrototypicalModule, distance=distance, scale=2.0, learn_scale=False)
    classes, queries = torch.tensor([[[3.0, 0.0], [4.0, 4.0]]]), torch.tensor([[[0.0, 0.0], [3.0, 3.0 * 1.0]]])
    expected_of_second = {"squared_euclidean": [-9.0, -2.0], "euclidean": [-3.0, -math.sqrt(2)]}
    wanted = torch.tensor(expected)
    if distance == "squared_euclidean":
        wanted = torch.tensor([[-9.0, -32.0], expected_of_second["squared_euclidean"]])
    elif distance == "euclidean":
        wanted = torch.tensor([[-3.0, -math.sqrt(32)], expected_of_second["euclidean"]])
    torch.testing.assert_close(module.compare(classes, queries)[0], 2 * wanted, rtol=1e-5, atol=2e-3)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["head.log_scale"]


@pytest.mark.parametrize("flatten", [True, False])
def test_loss_formula(flatten: bool) -> None:
    module, batch = build(PrototypicalModule, scale=0.3, flatten=flatten).train(), episode_batch()
    module.backbone.double()
    images = torch.cat([batch[part]["image"].flatten(0, 1) for part in ("support", "query")])
    maps = module.backbone.forward_features(images).detach()
    features = maps.flatten(1) if flatten else maps.mean((2, 3))
    support, query = features[:12].view(2, 6, -1), features[12:].view(2, 12, -1)
    losses, right = [], []
    for b in range(2):
        means = [support[b][batch["support"]["label"][b] == k].mean(0) for k in range(3)]
        for z, label in zip(query[b], batch["query"]["label"][b].tolist(), strict=True):
            weights = [math.exp(-0.3 * float((z - mean).square().sum())) for mean in means]
            losses.append(-math.log(weights[label] / sum(weights)))
            right.append(max(range(3), key=weights.__getitem__) == label)
    output = module.step(batch, "train")
    assert float(output["loss"].detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert float(output["acc"]) == pytest.approx(sum(right) / len(right))


def test_single_pass_and_learned_scale() -> None:
    module, batch = build(PrototypicalModule).train(), episode_batch()
    seen: list[Tensor] = []
    module.backbone.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.step(batch, "train")["loss"].backward()
    assert [len(part) for part in seen] == [2 * (6 + 12)]
    assert module.head.log_scale.grad.abs() > 0
    assert [group["name"] for group in module.parameter_groups()] == ["decay", "no_decay"]


def test_distances_are_computed_in_float32() -> None:
    module = build(PrototypicalModule, scale=1.0)
    classes = torch.randn(1, 3, 64) + 20
    queries = classes + 0.1 * torch.randn(1, 3, 64)
    exact = -((queries[0, :, None].double() - classes[0].double()) ** 2).sum(-1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module.compare(classes, queries)[0].double(), exact, rtol=1e-3, atol=0.02)
