"""Base classes of modules with one task or several."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lit_cv import DetectionModule, MultiTaskModule, SegmentationModule, SupervisedModule
from lit_cv.modules.base import BaseModule
from lit_cv.modules.task_module import TaskModule
from lit_cv.tasks import ClassificationTask, RegressionTask
from tests.marks import first_quick
from tests.modules.scenes import QUIET, Rectangles
from tests.modules.test_supervised import Blobs

SMALL: dict[str, Any] = {"backbone": "resnet9_small", "image_size": 32}
DENSE: dict[str, Any] = {"channels": 32}
BOXES: dict[str, Any] = {**SMALL, **DENSE, "strides": [4, 8], "num_convs": 1, "box_classes": ["red", "blue"]}
IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(module: BaseModule) -> Any:
    module.configure_model()
    return module.eval()


def scenes() -> dict[str, Any]:
    batch: dict[str, Any] = next(iter(Rectangles(8).train_dataloader()))
    return batch


@pytest.mark.parametrize(
    "module",
    [
        SupervisedModule(**SMALL, num_classes=3),
        DetectionModule(**BOXES),
        SegmentationModule(**SMALL, **DENSE, mask_classes=["ground", "cell"]),
    ],
)
def test_task_is_not_a_submodule(module: BaseModule) -> None:
    names = {name.partition(".")[0] for name in built(module).state_dict()}
    assert names == {"backbone", "head"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "batch"),
    first_quick(
        [
            (lambda: SupervisedModule(**SMALL, num_classes=3), {"label": torch.tensor([0, 2, 1])}),
            (
                lambda: DetectionModule(**BOXES),
                {"boxes": [torch.zeros(0, 4)] * 3, "box_labels": [torch.zeros(0, dtype=torch.int64)] * 3},
            ),
            (
                lambda: SegmentationModule(**SMALL, **DENSE, mask_classes=["ground", "cell"]),
                {"mask": torch.zeros(3, 32, 32, dtype=torch.int64)},
            ),
        ],
        1,
    ),
)
def test_networks_are_built_on_first_use(make: Callable[[], TaskModule], batch: dict[str, Any]) -> None:
    batch = {"image": IMAGES, **batch}
    assert "loss" in make().step(batch, "val")
    assert make().predict_step(batch, 0)
    module = make()
    if isinstance(module, DetectionModule):
        assert len(module.detect(IMAGES)) == len(IMAGES)


def test_custom_head_is_used_and_copied() -> None:
    module = built(SupervisedModule(**SMALL, num_classes=3))
    module.head = nn.Linear(module.backbone.num_features, 5)
    other = copy.deepcopy(module)
    other.head.weight.data.zero_()
    other.head.bias.data.zero_()
    assert module(IMAGES).shape == (3, 5)
    assert module(IMAGES).any()
    assert not other(IMAGES).any()


def test_images_with_unknown_objects_are_excluded() -> None:
    module, batch = built(DetectionModule(**BOXES)), scenes()
    known = torch.tensor([True, False] * 4)
    expected = module.step({name: values[::2] for name, values in batch.items()}, "train")
    output = module.step({**batch, "boxes_known": known}, "train")
    torch.testing.assert_close(output["loss"], expected["loss"])
    assert len(module.step({**batch, "boxes_known": known}, "val")["detections"]) == 4
    nothing = module.step({**batch, "boxes_known": ~known & known}, "train")
    nothing["loss"].backward()
    assert float(nothing["loss"].detach()) == float(nothing["counts"]["loss"]) == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters() if p.requires_grad)


def test_error_names_missing_entry() -> None:
    message = "SupervisedModule learns from batches with a `label`, but got one with image: use data with labels"
    with pytest.raises(ValueError, match=message):
        built(SupervisedModule(**SMALL, num_classes=3)).step({"image": IMAGES}, "train")


def test_error_for_step_without_metric_inputs() -> None:
    class Silent(SupervisedModule):
        def step(self, batch: Any, stage: Any) -> Any:
            return {"loss": super().step(batch, stage)["loss"]}

    with pytest.raises(TypeError, match=r"Silent\.step returned loss: its metrics need logits and target"):
        L.Trainer(**QUIET).validate(Silent(backbone="conv4"), Blobs(), verbose=False)


def test_class_weights_and_metrics_of_one_task_among_several() -> None:
    data = Blobs(num_classes=6)
    options = {"type": "classification", "class_weight": "balanced", "per_class_metrics": True}
    several = MultiTaskModule({"kind": options}, weighting="equal", backbone="conv4")
    alone = SupervisedModule(backbone="conv4", class_weight="balanced", per_class_metrics=True)
    logged = []
    for module in (several, alone):
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(**QUIET, max_epochs=1)
        trainer.fit(module, data)
        logged.append({name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name})
    torch.testing.assert_close(several.tasks["kind"].class_weight, alone.class_weight)
    renamed = {name.replace("val_", "val_kind_", 1): value for name, value in logged[1].items()}
    assert {"val_kind_ece", "val_kind_top5", "val_kind_acc_c0"} <= renamed.keys()
    assert {name: logged[0][name] for name in renamed} == pytest.approx(renamed, rel=1e-4)


@pytest.mark.slow
def test_dense_tasks_log_the_same_alone_and_among_others() -> None:
    tasks = {
        "objects": {"type": "detection", **DENSE, "strides": [4, 8], "num_convs": 1},
        "pixels": {"type": "segmentation", **DENSE, "dice_weight": 0.5},
    }
    torch.manual_seed(0)
    several = MultiTaskModule(tasks, backbone="resnet9_small", weighting="equal")
    boxes = DetectionModule(backbone="resnet9_small", **DENSE, strides=[4, 8], num_convs=1)
    pixels = SegmentationModule(backbone="resnet9_small", **DENSE, dice_weight=0.5)
    logged = L.Trainer(**QUIET).validate(several, Rectangles(), verbose=False)[0]
    for name, module in (("objects", boxes), ("pixels", pixels)):
        L.Trainer(**QUIET).validate(module, Rectangles(), verbose=False)
        module.backbone.load_state_dict(several.backbone.state_dict())
        module.head.load_state_dict(several.tasks[name].head.state_dict())
        alone = L.Trainer(**QUIET).validate(module, Rectangles(), verbose=False)[0]
        expected = {key.replace("val_", f"val_{name}_", 1): value for key, value in alone.items() if value == value}
        assert len(expected) > 5
        assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        settled = {key: several.hparams["tasks"][name][key] for key in ("stride", "strides") if key in module.hparams}
        assert settled == {key: module.hparams[key] for key in settled}


def test_warning_for_data_without_objects() -> None:
    data = Rectangles(4)
    for item in data.items:
        item["boxes"], item["box_labels"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    tasks = {"objects": {"type": "detection", **DENSE, "strides": [4, 8], "num_convs": 1}}
    module = MultiTaskModule(tasks, backbone="resnet9_small")
    with pytest.warns(
        UserWarning, match="no image of the val data has an object: `val_objects_map` and related metrics are NaN"
    ):
        L.Trainer(**QUIET).validate(module, data, verbose=False)


def test_metrics_are_renamed_with_the_classes() -> None:
    data, module = Rectangles(4), MultiTaskModule({"objects": {"type": "detection", **DENSE}}, backbone="resnet9_small")
    L.Trainer(**QUIET).validate(module, data, verbose=False)
    data.box_classes = ["crimson", "navy"]
    module.build_metrics()
    assert module.tasks["objects"].metrics["val"]["ap"].class_names == ["crimson", "navy"]  # type: ignore[index]


class Light(TaskModule):
    """Prediction of an image's brightness, as a module."""

    def make_task(self) -> RegressionTask:
        return RegressionTask("", key="light")


@pytest.mark.learns
def test_custom_module_with_any_task(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    data = Blobs(n=64)
    light = data.images.float().mean((1, 2, 3)) / 100
    light[:5] = torch.nan
    rows = [{"image": image, "light": value} for image, value in zip(data.images, light, strict=True)]
    data.train_dataloader = data.val_dataloader = lambda: torch.utils.data.DataLoader(rows, batch_size=16)  # type: ignore[method-assign, arg-type]
    module = Light(backbone="conv4", lr=1e-2)
    trainer = L.Trainer(**QUIET, max_epochs=8)
    trainer.fit(module, data)
    assert float(trainer.callback_metrics["val_r2"]) > 0.5
    assert module.predict_step({"image": data.images[:2]}, 0)["values"].shape == (2, 1)


class Kinds(TaskModule):
    """Classification with the number of classes from the data."""

    def make_task(self) -> ClassificationTask:
        return ClassificationTask("")


def test_open_options_come_from_the_data() -> None:
    module = Kinds(backbone="conv4")
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(module, Blobs(num_classes=4))
    assert module(Blobs().images[:2]).shape == (2, 4)
    assert "val_acc" in trainer.callback_metrics
    assert "num_classes" not in module.hparams  # not an argument of the class
