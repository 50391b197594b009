"""Recipe options yield to conflicting choices of the user."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.utils import save_image

from lit_cv.cli import main
from lit_cv.errors import VoidOptionError
from lit_cv.running.arguments import prepare_run
from lit_cv.running.recipe_options import drop_option, options_of_recipes
from lit_cv.running.training import LitCLI
from tests.marks import first_quick

QUICK = ["--trainer.accelerator", "cpu", "--trainer.fast_dev_run", "1", "--trainer.precision", "32-true",
         "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]  # fmt: skip
FEW = ["--data.num_images", "60", "--data.batch_size", "4", "--data.num_workers", "0"]
PROBE = ["--model.backbone", "conv4", "--data.batch_size", "64", "--data.num_workers", "0"]
DOMAINS = ["--data.source.num_images", "60", "--data.target.num_images", "60", "--data.batch_size", "4",
           "--data.num_workers", "0"]  # fmt: skip
PHOTOS = ["--data.root", "photos", "--data.batch_size", "2", "--data.image_size", "32", "--model.weights", "null",
          "--model.backbone", "conv4", "--data.num_workers", "0"]  # fmt: skip
EPISODES = ["--data.episodes_per_epoch", "2", "--data.val_episodes", "2", "--data.test_episodes", "2",
            "--data.evaluate", "[5w1s]", "--data.way", "5"]  # fmt: skip
SHORT = {
    "fine_tune": FEW,
    "linear_probe": PROBE,
    "detection": FEW,
    "segmentation": FEW,
    "multi_task": FEW,
    "supervised": ["--data.batch_size", "4", "--data.num_workers", "0"],
    "simclr": ["--data.batch_size", "8", "--data.num_workers", "0"],
    "mae": ["--data.batch_size", "4", "--data.num_workers", "0"],
    "mmd": DOMAINS,
    "imagefolder_fine_tune": PHOTOS,
    "prototypical": EPISODES,
}
FEATURES = ["--model.strategy", "feature_extraction"]
CONFLICTING: list[tuple[str, list[str], list[str]]] = [
    ("fine_tune", FEATURES, ["--model.backbone_lr 0.001"]),
    ("fine_tune", [*FEATURES, "--model.solve_head", "true"], ["--model.backbone_lr 0.001"]),
    ("fine_tune", [*FEATURES, "--model.cache_features", "true"], ["--model.backbone_lr 0.001", "Augmentation"]),
    ("fine_tune", ["--data.label_fraction", "0.5"], ["--data.labels_per_class 10"]),
    ("simclr", ["--data.label_fraction", "0.5"], ["--data.labels_per_class 2"]),
    ("linear_probe", ["--model.strategy", "full_finetune"], ["--model.cache_features true"]),
    ("linear_probe", ["--model.strategy", "gradual_unfreezing"], ["--model.cache_features true"]),
    ("linear_probe", ["--trainer.callbacks", "Augmentation"], ["--model.cache_features true"]),
    ("prototypical", ["--data.split_by", "class"], ["--data.val_classes 1", "--data.test_classes 2"]),
]
COMPATIBLE: list[tuple[str, list[str]]] = [
    *itertools.product(
        ("fine_tune", "mae"),
        (
            ["--model.optimizer", "sgd"], ["--model.schedule", "constant"], ["--model.schedule", "plateau"],
            ["--model.lr", "1e-7"], ["--trainer.limit_val_batches", "0"], ["--early_stopping.patience", "3"],
            ["--checkpoint.monitor", "null"], ["--trainer.max_steps", "1"],
        ),
    ),
    *itertools.product(
        ("detection", "segmentation", "multi_task", "mmd"),
        (["--model.backbone", "vit_micro_p4"], ["--model.backbone", "conv4"]),
    ),
    ("fine_tune", ["--data", "DigitsDataModule"]),
    ("supervised", ["--data", "ShapesDataModule"]),
    ("fine_tune", ["--model.strategy", "gradual_unfreezing"]),
    ("fine_tune", ["--model.strategy", "lora"]),
    ("fine_tune", ["--model.strategy", "discriminative_lr"]),
    ("linear_probe", ["--model.cache_features", "false"]),
    ("linear_probe", ["--model.solve_head", "false"]),
    ("detection", ["--model.detector", "retinanet"]),
    ("detection", ["--model.detector", "faster_rcnn"]),
    ("segmentation", ["--model.head", "deeplab"]),
    ("multi_task", ["--model.weighting", "pcgrad"]),
]  # fmt: skip


@pytest.fixture
def photos(in_tmp: Path) -> None:
    for name, index in itertools.product(("cat", "dog"), range(10)):
        (in_tmp / "photos" / name).mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 40, 50), in_tmp / "photos" / name / f"{index}.png")


def fit(recipe: str, *choice: str) -> Any:
    given = iter(SHORT[recipe])
    short = [token for name, value in zip(given, given, strict=True) if name not in choice for token in (name, value)]
    if "--data" in choice:
        short = [token for token in short if token not in ("--data.num_images", "60")]
    return main(["fit", "--config", recipe, *short, *QUICK, *choice])


def dropped(text: str) -> list[str]:
    prefix = "Dropped from the recipe: "
    return [line.removeprefix(prefix).split(" (")[0] for line in text.splitlines() if line.startswith(prefix)]


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("recipe", "choice", "expected"),
    [*CONFLICTING[:1], *(pytest.param(*row, marks=pytest.mark.slow) for row in CONFLICTING[1:])],
    ids=lambda each: str(each)[:60],
)
def test_conflicting_recipe_option_is_dropped(
    recipe: str, choice: list[str], expected: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    cli = fit(recipe, *choice)
    assert dropped(capfd.readouterr().err) == expected
    for option in expected:
        name = option.split()[0].rpartition(".")[2]
        kept = {**cli.model.hparams, **cli.datamodule.hparams}
        assert name not in kept or kept[name] in (None, False), name
    if "Augmentation" in expected:
        assert cli.config["fit"]["trainer"]["callbacks"] == []
        assert not any(type(callback).__name__ == "Augmentation" for callback in cli.trainer.callbacks)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ([], 256),
        (["--data.image_size", "320"], 366),
        (["--data.image_size=112"], 128),
        (["--data.image_size", "320", "--data.train_image_size", "330"], 330),
        (["--data.image_size", "224"], 256),
        (["--config", "size.yaml"], 128),
        (["--config", "sizes.yaml"], 120),
    ],
    ids=str,
)
def test_training_size_keeps_its_proportion_to_the_image_size(choice: list[str], expected: int, in_tmp: Path) -> None:
    Path("size.yaml").write_text("data: {class_path: ImageFolderDataModule, init_args: {image_size: 112}}")
    Path("sizes.yaml").write_text(
        "data: {class_path: ImageFolderDataModule, init_args: {image_size: 112, train_image_size: 120}}"
    )
    prepared = prepare_run(["fit", "--config", "imagefolder_fine_tune", "--data.root", "photos", *choice])
    merged = yaml.safe_load(Path(prepared.args[2]).read_text())
    if "--data.train_image_size" in choice:
        assert "data.train_image_size" not in prepared.recipe
    else:
        assert merged["data"]["init_args"]["train_image_size"] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(("recipe", "choice"), COMPATIBLE, ids=lambda each: str(each)[:60])
def test_compatible_choice_keeps_recipe_options(
    recipe: str, choice: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    fit(recipe, *choice)
    assert dropped(capfd.readouterr().err) == []


@pytest.mark.parametrize(
    ("recipe", "choice", "message"),
    [
        ("fine_tune", [*FEATURES, "--model.backbone_lr", "0.1"], r"backbone_lr=0\.1: it has no effect"),
        ("linear_probe", ["--model.layer_decay", "0.7"], r"layer_decay=0\.7: it has no effect"),
        ("fine_tune", ["--model.frozen_stages", "2"], "frozen_stages=2: it needs strategy freeze_backbone"),
        ("fine_tune", ["--data.label_fraction", "0.5", "--data.labels_per_class", "3"], "remove one of them"),
        (
            "linear_probe",
            ["--trainer.callbacks", "Augmentation", "--model.cache_features", "true"],
            "Augmentation changes the images at every step",
        ),
        ("fine_tune", [*FEATURES, "--config", "mine.yaml"], r"backbone_lr=0\.5: it has no effect"),
    ],
)
def test_conflicting_user_option_is_rejected(in_tmp: Path, recipe: str, choice: list[str], message: str) -> None:
    (in_tmp / "mine.yaml").write_text("model: {class_path: FineTuneModule, init_args: {backbone_lr: 0.5}}\n")
    with pytest.raises(VoidOptionError, match=message):
        fit(recipe, *choice)


@pytest.mark.slow
def test_saved_config_lacks_dropped_options(in_tmp: Path) -> None:
    quick = [*QUICK[:2], *QUICK[4:], "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    main(["fit", "--config", "fine_tune", *FEW, *quick, *FEATURES, "--model.cache_features", "true"])
    config = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())
    assert config["model"]["init_args"]["backbone_lr"] is None
    assert config["trainer"]["callbacks"] == []
    assert not Path("lightning_logs/version_1").exists()


@pytest.mark.parametrize(("epochs", "every"), first_quick([("3", 1), ("8", 4), ("-1", 4)], 1))
def test_short_run_validates_every_epoch(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, epochs: str, every: int
) -> None:
    monkeypatch.setattr(LitCLI, "_run_subcommand", lambda self, name: None)
    chosen = ["fit", "--config", "bccd_detection", "--trainer.max_epochs", epochs]
    assert LitCLI(*prepare_run(chosen)).trainer.check_val_every_n_epoch == every
    typed = LitCLI(*prepare_run([*chosen, "--trainer.check_val_every_n_epoch", "5"]))
    assert typed.trainer.check_val_every_n_epoch == 5


def test_options_set_only_by_recipes(in_tmp: Path) -> None:
    Path("mine.yaml").write_text("trainer: {max_epochs: 3}\n")
    recipe = prepare_run(
        ["fit", "--config", "fine_tune", "--config", "mine.yaml", "--model.init_args.lr", "0.1"]
    ).recipe
    assert {"model.backbone_lr", "data.labels_per_class", "checkpoint.monitor", "trainer.callbacks"} <= recipe.keys()
    assert not {"model.lr", "trainer.max_epochs", "model.class_path"} & recipe.keys()
    other = prepare_run(["fit", "--config", "fine_tune", "--data", "DigitsDataModule"]).recipe
    assert not [name for name in other if name.startswith("data.")]
    typed = prepare_run(["fit", "--config", "fine_tune", "--trainer.callbacks", "MixUp"]).recipe
    added = prepare_run(["fit", "--config", "fine_tune", "--trainer.callbacks+=MixUp"]).recipe
    assert ("trainer.callbacks" in typed, "trainer.callbacks" in added) == (False, True)
    assert prepare_run(["fit", "--model", "SupervisedModule", "--data", "DigitsDataModule"]).recipe == {}


def config() -> dict[str, Any]:
    objects = {"type": "detection", "strides": [4, 8]}
    crop = {"class_path": "lit_cv.Augmentation", "init_args": {}}
    source = {"class_path": "datamodules.ShapesDataModule", "init_args": {"num_images": 50}}
    return {
        "model": {"class_path": "lit_cv.MultiTaskModule", "init_args": {"tasks": {"objects": objects}, "lr": 0.1}},
        "data": {"class_path": "datamodules.DomainAdaptationDataModule", "init_args": {"source": source}},
        "trainer": {"callbacks": [crop, {"class_path": "lit_cv.MixUp"}], "precision": "bf16-mixed"},
        "ema": {"decay": 0.9},
    }


@pytest.mark.parametrize(
    ("name", "value", "option", "default"),
    [
        ("lr", 0.1, "model.lr", 1e-3),
        ("strides", [4, 8], "model.tasks.objects.strides", None),
        ("num_images", 50, "data.source.num_images", 10_000),
        ("precision", "bf16-mixed", "trainer.precision", None),
        ("decay", 0.9, "ema.decay", None),
    ],
)
def test_dropped_option_gets_default(name: str, value: Any, option: str, default: Any) -> None:
    parsed = config()
    recipe = options_of_recipes([config()], config(), [])
    assert recipe[option] == value
    dropped_option = drop_option(parsed, recipe, VoidOptionError(None, name, value, "of another"))
    assert dropped_option is not None
    assert name in dropped_option
    remaining = options_of_recipes([parsed], parsed, [])
    assert remaining.get(option) == default
    assert option not in recipe
    assert drop_option(parsed, recipe, VoidOptionError(None, name, value, "of another")) is None


def test_unrelated_option_is_not_dropped() -> None:
    parsed, recipe = config(), options_of_recipes([config()], config(), [])
    assert drop_option(parsed, recipe, VoidOptionError(None, "lr", 0.2, "of another")) is None
    source = {"data.source": recipe.pop("data.source.num_images")}
    assert drop_option(parsed, source, VoidOptionError(None, "source", 50, "it is needed")) is None
    assert parsed == config()


def test_other_option_may_be_dropped() -> None:
    parsed, recipe = config(), options_of_recipes([config()], config(), ["model.tasks"])
    error = VoidOptionError(None, "strides", [4, 8], "not with this rate", others=("lr",))
    assert drop_option(parsed, recipe, error) is not None
    assert parsed["model"]["init_args"]["lr"] == 1e-3
    assert parsed["model"]["init_args"]["tasks"]["objects"]["strides"] == [4, 8]


def test_only_recipe_callbacks_are_dropped() -> None:
    parsed, recipe = config(), options_of_recipes([config()], config(), [])
    mine = {"class_path": "lit_cv.Augmentation", "init_args": {"policy": "symbols"}}
    parsed["trainer"]["callbacks"].append(mine)
    error = VoidOptionError(None, "callbacks", ["Augmentation"], "not with kept features")
    assert drop_option(parsed, recipe, error) == "Augmentation"
    assert parsed["trainer"]["callbacks"] == [{"class_path": "lit_cv.MixUp"}, mine]
    assert drop_option(parsed, recipe, error) is None
