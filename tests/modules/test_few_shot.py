"""Properties of all few-shot modules: learning, evaluation, new classes, invariances."""

import statistics
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torchvision.utils import save_image

from datamodules import DigitsDataModule
from lit_cv import Augmentation, CutMix, MAMLModule, PrototypicalModule, RelationModule
from lit_cv.cli import main
from lit_cv.metrics.episodes import EpisodeAccuracy
from tests.modules.episodes import build, episode_batch, marks, trainer
from tests.test_resume import assert_same

EVERY = [
    (PrototypicalModule, {}),
    (PrototypicalModule, {"distance": "cosine", "flatten": False}),
    (RelationModule, {}),
    (MAMLModule, {"way": 3}),
    (MAMLModule, {"way": 3, "batch_norm": "support", "anil": True, "learn_inner_lr": True}),
]
QUIET = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize(
    ("cls", "options", "epochs"),
    [
        (PrototypicalModule, {"lr": 3e-3}, 8),
        (PrototypicalModule, {"distance": "cosine", "lr": 3e-3}, 8),
        (PrototypicalModule, {"distance": "euclidean", "lr": 1e-3}, 8),
        (RelationModule, {"lr": 3e-3}, 8),
        (MAMLModule, {"lr": 3e-3, "inner_lr": 0.1, "batch_norm": "support", "learn_inner_lr": True}, 5),
    ],
)
def test_learns_to_classify_new_classes(cls: Any, options: Any, epochs: int, seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    module, data = cls(**options), marks(batch_size=2, val_episodes=2, test_episodes=20)
    run = trainer(epochs)
    before = run.test(module, data, verbose=False)[0]
    run.fit(module, data)
    after = run.test(module, data, verbose=False)[0]
    assert after["test_3w2s_acc"] > max(0.8, before["test_3w2s_acc"] + 0.05)
    assert after["test_2w1s_acc"] > 0.8
    assert 0 <= after["test_2w1s_ci95"] < 0.12
    assert module.monitor == "val_2w1s_acc"


def test_confidence_interval_over_episodes() -> None:
    metric = EpisodeAccuracy("5w1s")
    values = [0.2, 0.4, 0.9, 1.0, 0.65]
    metric.update(torch.tensor(values[:2]))
    metric.update(torch.tensor(values[2:]))
    values_of_metric = metric.compute()
    assert float(values_of_metric["5w1s_acc"]) == pytest.approx(statistics.fmean(values))
    assert float(values_of_metric["5w1s_ci95"]) == pytest.approx(1.96 * statistics.stdev(values) / 5**0.5)


@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_invariant_to_image_order_and_class_numbers(cls: Any, options: Any) -> None:
    module, batch = build(cls, **options).eval(), episode_batch()
    logits = module.episode_logits(batch, 3, "val")
    order, place = torch.tensor([4, 2, 0, 5, 1, 3]), torch.tensor([2, 0, 1])
    moved = {**batch, "support": {key: value[:, order] for key, value in batch["support"].items()}}
    torch.testing.assert_close(module.episode_logits(moved, 3, "val"), logits, rtol=1e-3, atol=1e-4)
    head = getattr(module.head, "linear", None)
    if head is not None:  # the head's classes are renumbered, too
        with torch.no_grad():
            head.weight.copy_(head.weight[torch.argsort(place)].clone())
            head.bias.copy_(head.bias[torch.argsort(place)].clone())
    named = {**batch, "support": {**batch["support"], "label": place[batch["support"]["label"]]}}
    torch.testing.assert_close(module.episode_logits(named, 3, "val")[..., place], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_episodes_are_independent_in_evaluation(cls: Any, options: Any) -> None:
    module, batch = build(cls, **options).eval(), episode_batch()
    second = {part: {key: value[1:] for key, value in batch[part].items()} for part in ("support", "query")}
    together, alone = (module.episode_logits(b, 3, "val") for b in (batch, second))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_adapt_and_predict_equal_an_episode(cls: Any, options: Any) -> None:
    module, batch = build(cls, **options).eval(), episode_batch(count=1)
    logits = module.episode_logits(batch, 3, "val")[0]
    names = torch.tensor([40, 7, 12])  # in ascending order classes 1, 2, 0
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.inference_mode():
        module.train().adapt(batch["support"]["image"][0], names[batch["support"]["label"][0]])
        assert not module.training
        probabilities = module.predict_proba(batch["query"]["image"][0])
        labels = module.predict(batch["query"]["image"][0])
    assert torch.allclose(probabilities.sum(1), torch.ones(len(logits)))
    assert set(labels.tolist()) <= set(names.tolist())
    assert_same(before, dict(module.state_dict()))
    if not hasattr(module.head, "linear"):
        assert torch.equal(labels, names[logits.argmax(1)])
        torch.testing.assert_close(probabilities[:, [2, 0, 1]], module.probabilities(logits), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_cached_features_give_the_same_metrics() -> None:
    for cls in (PrototypicalModule, RelationModule):
        torch.manual_seed(0)
        module, data = cls(), marks()
        trainer().fit(module, data)
        by_features = trainer().validate(module, data, verbose=False)[0]

        class Uncached(cls):  # type: ignore[misc, valid-type]
            compares_features = False

        uncached = Uncached()
        trainer(limit_val_batches=1).validate(uncached, marks(), verbose=False)  # builds it
        uncached.load_state_dict(module.state_dict())
        by_episodes = trainer().validate(uncached, marks(batch_size=5), verbose=False)[0]
        assert by_features == pytest.approx(by_episodes, abs=1e-5)


def test_queries_from_another_dataset() -> None:
    from tests.modules.episodes import Marks

    data = marks(query_base=Marks(val_fraction=0.0))
    module = PrototypicalModule()
    metrics = trainer().validate(module, data, verbose=False)[0]
    assert 0.3 < metrics["val_2w1s_acc"] <= 1
    assert module._tables == {}  # freed


def test_augmentation_of_episodes() -> None:
    batch: dict[str, Any] = episode_batch()
    before = {part: batch[part]["image"].clone() for part in ("support", "query")}
    batch["query"]["image"][:] = batch["query"]["image"][0, 0]
    Augmentation("symbols").on_train_batch_start(None, None, batch, 0)  # type: ignore[arg-type]
    for part in ("support", "query"):
        assert batch[part]["image"].shape == before[part].shape
        assert not torch.equal(batch[part]["image"], before[part])
    assert len({image.sum().item() for image in batch["query"]["image"].flatten(0, 1)}) == 24
    with pytest.raises(TypeError, match="leave CutMix out"):
        CutMix().on_train_batch_start(None, None, batch, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: trainer().fit(PrototypicalModule(), DigitsDataModule()), "learns from episodes.*use EpisodicDataM"),
        (lambda: PrototypicalModule(in_channels=1).predict(torch.zeros(1, 1, 16, 16)), "call adapt"),
        (lambda: build(PrototypicalModule).adapt(torch.zeros(2, 1, 16, 16), torch.zeros(2)), "contains 1 class"),
        (lambda: build(PrototypicalModule).adapt(torch.zeros(2, 1, 16, 16), torch.zeros(3)), "one label per image"),
        (lambda: build(PrototypicalModule, backbone="vit_tiny", flatten=True), "no feature map to flatten"),
        (lambda: build(RelationModule, backbone="vit_tiny"), "no feature map to compare"),
        (lambda: build(RelationModule, image_size=None), "set image_size"),
        (lambda: trainer().validate(MAMLModule(way=2), marks()), "a task has 3 classes, but the head only 2"),
        (lambda: build(MAMLModule), r"set `way`"),
        (lambda: MAMLModule(inner_steps=0), "inner_steps=0: must be at least 1"),
        (lambda: MAMLModule(inner_lr=0.0), "must be positive"),
        (lambda: PrototypicalModule(scale=-1.0), "must be positive"),
    ],
)
def test_errors(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.slow
@pytest.mark.learns
def test_cli_on_folders_of_new_classes(in_tmp: Path, capfd: pytest.CaptureFixture[str], seed: int) -> None:
    fit = ["fit", "--config", "prototypical", *QUIET, "--seed_everything", str(seed)]
    fit += ["--data.episodes_per_epoch", "10", "--data.base.images_per_class", "24", "--trainer.max_epochs", "1"]
    cli = main([*fit, "--data.base.image_size", "16", "--data.val_episodes", "5"])
    assert cli is not None
    run = in_tmp / "lightning_logs" / "version_0"
    assert (run / "train_batch.png").is_file()
    tested = main(["test", "--ckpt_path", "best", *QUIET, "--data.test_episodes", "7", "--data.evaluate", "[2w1s]"])
    assert tested is not None
    assert set(tested.trainer.callback_metrics) == {"test_loss", "test_2w1s_acc", "test_2w1s_ci95"}
    generator = torch.Generator().manual_seed(0)
    for place, count in (("examples/bright", 3), ("examples/dark", 2), ("new", 4)):
        (in_tmp / place).mkdir(parents=True)
        for index in range(count):
            light = 0.9 if "bright" in place or (place == "new" and index % 2) else 0.1
            image = light * torch.ones(3, 20, 20) + 0.05 * torch.rand(3, 20, 20, generator=generator)
            save_image(image, in_tmp / place / f"{index}.png")
    predict = ["predict", "--ckpt_path", "best", *QUIET]
    capfd.readouterr()
    main([*predict, "--data.support_root", "examples", "--data.predict_root", "new"])
    rows = [line.split(",") for line in (run / "predictions.csv").read_text().splitlines()]
    assert rows[0] == ["image", "predicted", "probability", "p_bright", "p_dark"]
    assert [row[:2] for row in rows[1:]] == [[f"{i}.png", ("dark", "bright")[i % 2]] for i in range(4)]
    err = capfd.readouterr().err
    assert "5 support images of 2 classes, 4 to predict" in err
    assert "to train on" not in err
    with pytest.raises(ValueError, match=r"set --data.support_root to a folder"):
        main(predict)
    on_examples = [*predict, "--data.support_root", "examples", "--data.predict_root", "new"]
    (in_tmp / "examples" / "dark" / "0.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"dark/0\.png.*\(--data\.support_root\)\.$"):
        main(on_examples)
    (in_tmp / "examples" / "dark" / "0.png").rename(in_tmp / "0.png")
    (in_tmp / "examples" / "dark" / "1.png").rename(in_tmp / "1.png")
    with pytest.raises(ValueError, match=r"class folders without images: dark.*\(--data\.support_root\)\.$"):
        main(on_examples)
    (in_tmp / "examples" / "dark").rmdir()
    with pytest.raises(ValueError, match=r"only one class \(bright\).*\(--data\.support_root\)\.$"):
        main(on_examples)
    with pytest.raises(FileNotFoundError, match=r"contains no folders.*\(--data\.support_root\)\.$"):
        main([*predict, "--data.support_root", "examples/bright", "--data.predict_root", "new"])


@pytest.mark.slow
def test_nearest_centroid_on_checkpoint_features(in_tmp: Path) -> None:
    pretrain = ["--model.backbone", "conv4", "--data", "DigitsDataModule", "--trainer.max_epochs", "1", *QUIET]
    main(["fit", "--model", "SimCLRModule", *pretrain, "--trainer.limit_train_batches", "2"])
    weights = "lightning_logs/version_0/checkpoints/last.ckpt"
    cli = main(
        ["test", "--config", "nearest_centroid", "--model.weights", weights, *QUIET, "--data.test_episodes", "9"]
    )
    assert cli is not None
    assert isinstance(cli.model, PrototypicalModule)
    state, source = cli.model.state_dict(), torch.load(weights, weights_only=True)["state_dict"]
    assert all(torch.equal(state[key], source[key]) for key in state if key.startswith("backbone.body"))
    assert "test_5w1s_acc" in cli.trainer.callback_metrics


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["relation", "maml"])  # the other recipes run in the tests above
def test_recipes_run(in_tmp: Path, recipe: str) -> None:
    few = ["--data.episodes_per_epoch", "4", "--data.val_episodes", "2", "--trainer.max_epochs", "1"]
    cli = main(["fit", "--config", recipe, *few, *QUIET, "--data.base.images_per_class", "20"])
    assert cli is not None
    assert "val_5w1s_acc" in cli.trainer.callback_metrics
