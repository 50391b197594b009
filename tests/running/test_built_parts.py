"""The objects that a configuration builds, nested ones included."""

from datamodules import DigitsDataModule, DomainAdaptationDataModule
from lit_cv import SupervisedModule
from lit_cv.callbacks import EMA, CutMix
from lit_cv.running.built_parts import built_parts


def test_nested_parts() -> None:
    digits = {"class_path": "datamodules.DigitsDataModule", "init_args": {"val_fraction": 0.2}}
    config = {
        "model": {"class_path": "lit_cv.SupervisedModule", "init_args": {"lr": 0.1}},
        "data": {
            "class_path": "datamodules.DomainAdaptationDataModule",
            "init_args": {"source": digits, "target": None},
        },
        "trainer": {"callbacks": [{"class_path": "lit_cv.CutMix"}, {"class_path": "nowhere.Callback"}]},
        "ema": {"decay": 0.9},
    }
    parts = {part.name: part for part in built_parts(config)}
    assert {name: part.cls for name, part in parts.items()} == {
        "ema": EMA,
        "model": SupervisedModule,
        "data": DomainAdaptationDataModule,
        "data.source": DigitsDataModule,
        "trainer.callbacks": object,
    }
    assert parts["data.source"].arguments == {"val_fraction": 0.2}
    assert [part.cls for part in built_parts(config) if part.name == "trainer.callbacks"] == [CutMix, object]
