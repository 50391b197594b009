"""The comparison of all pairs, its loss, and its agreement with the published network."""

import pytest
import torch
import torch.nn.functional as F

from lit_cv import RelationModule
from lit_cv.nn.relation import RelationHead
from tests.modules.episodes import build, episode_batch


def test_shared_convolution_equals_pairwise_convolution() -> None:
    torch.manual_seed(0)
    head = RelationHead(6, (5, 5), width=7).train()
    classes, queries = torch.randn(2, 3, 6, 5, 5), torch.randn(2, 4, 6, 5, 5)
    pairs = torch.stack(
        [torch.cat([classes[b, n], queries[b, q]]) for b in range(2) for q in range(4) for n in range(3)]
    )
    expected = head.score(head.rest(head.first(pairs))).view(2, 4, 3)
    torch.testing.assert_close(head(classes, queries), expected, rtol=1e-4, atol=1e-5)
    assert head.rest[0](head.first(pairs)).shape == (24, 7, 5, 5)


def test_inactive_units_still_have_gradients() -> None:
    torch.manual_seed(0)
    head = RelationHead(6, (5, 5), width=7).train()
    with torch.no_grad():
        head.score[0].bias.fill_(-100.0)  # all pairs are below zero, as after too large steps
    logits = head(torch.randn(2, 3, 6, 5, 5), torch.randn(2, 4, 6, 5, 5))
    assert logits.std(-1).min() > 1e-4
    logits.square().mean().backward()
    assert head.score[0].weight.grad.abs().sum(1).min() > 0
    assert head.first.weight.grad.abs().max() > 0


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_loss_of_scores(loss: str) -> None:
    module, batch = build(RelationModule, loss=loss).train(), episode_batch()
    target = batch["query"]["label"]
    images = torch.cat([batch[part]["image"].flatten(0, 1) for part in ("support", "query")])
    maps = module.backbone.forward_features(images)
    support, query = maps[:12].unflatten(0, (2, 6)), maps[12:].unflatten(0, (2, 12))
    means = torch.stack(
        [torch.stack([support[b][batch["support"]["label"][b] == k].mean(0) for k in range(3)]) for b in range(2)]
    )
    logits = module.head(means, query).detach()
    if loss == "mse":
        expected = sum(
            (float(logits[b, q, k].sigmoid()) - float(k == target[b, q])) ** 2
            for b in range(2) for q in range(12) for k in range(3)
        ) / 72  # fmt: skip
    else:
        expected = float(F.cross_entropy(logits.view(24, 3), target.view(24)))
    assert float(module.step(batch, "train")["loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_chunks_of_queries_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = build(RelationModule).eval(), episode_batch()
    expected = module.episode_logits(batch, 3, "val")
    monkeypatch.setattr("lit_cv.modules.relation._PAIRS", 12)
    with torch.no_grad():
        torch.testing.assert_close(module.episode_logits(batch, 3, "val"), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_are_normalized_scores() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    scores = logits.sigmoid()
    torch.testing.assert_close(build(RelationModule).probabilities(logits), scores / scores.sum())


def test_default_backbone_has_a_feature_map() -> None:
    module = build(RelationModule, image_size=28)
    assert module.backbone.forward_features(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)
    assert module.backbone.body.blocks[0][1].num_batches_tracked == 1  # only from this call, not from building the head
