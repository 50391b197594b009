"""What every approach promises, for every subclass of `BaseModule`, including those that users write.

One uninterrupted run of each serves all checks. What a check needs to know of an approach is a row in `cases.py`.
"""

import copy
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cv import MAEModule, SegmentationModule, SimCLRModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.modules.base import BaseModule
from lit_cv.modules.loading import load_module
from lit_cv.nn import Backbone, create_backbone
from lit_cv.randomness import fixed_seed
from lit_cv.running.export import ExportedModule, export_program, export_weights
from tests.contracts import table
from tests.contracts.approaches import BYOL
from tests.contracts.cases import VARIANTS, Case, cases
from tests.contracts.runs import PLACES, QUIET, EveryBatch, Run, differences

CASES = cases()
SUPERVISED = next(case for case in CASES if case.cls is SupervisedModule)
QUICK_EXPORTS = (SupervisedModule, SegmentationModule, MAEModule)


def promising(contract: str) -> Any:
    """Return the decorator that runs a test for every approach that promises a contract."""
    chosen = [case for case in CASES if contract not in case.not_promised]
    return pytest.mark.parametrize("case", [_row(case, contract) for case in chosen])


def _row(case: Case, contract: str) -> Any:
    slow = contract == "export" and case.cls not in QUICK_EXPORTS
    return pytest.param(case, marks=[pytest.mark.slow] if slow else [], id=case.name)


def kills() -> Any:
    """Return the decorator that runs a test for every row and place of a kill."""
    rows = [case for case in CASES if "resume" not in case.not_promised]
    quick = [(case, PLACES[0]) for case in rows]
    slow = [(case, place) for case in rows for place in PLACES[1:]]
    slow += [(case, place) for case in VARIANTS for place in PLACES]
    params = [pytest.param(case, place, id=f"{case.name}, {place}") for case, place in quick]
    params += [pytest.param(case, place, id=f"{case.name}, {place}", marks=pytest.mark.slow) for case, place in slow]
    return pytest.mark.parametrize(("case", "place"), params)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Run]:
    """Uninterrupted runs, each made once."""
    made: dict[str, Run] = {}

    def make(case: Case) -> Run:
        if case.name not in made:
            weights = make(SUPERVISED).last if case.pretrained else None
            try:
                made[case.name] = Run(case, tmp_path_factory.mktemp("whole"), seed=1, weights=weights)
            except Exception as error:
                if not case.is_default:
                    raise
                pytest.fail(
                    f"{case.name} does not learn from images with labels ({error}): add a row with its data to ROWS "
                    "in tests/contracts/cases.py."
                )
        return made[case.name]

    return make


@kills()
def test_resume_is_exact(case: Case, place: str, whole: Callable[[Case], Run], tmp_path: Path) -> None:
    run = whole(case)
    for epoch in case.killed_in:
        check_resume(case, run, run.left[epoch, place], tmp_path / str(epoch))


def check_resume(case: Case, run: Run, left: Path, folder: Path, **options: Any) -> None:
    continued = Run(case, folder, seed=2, continued=left, **options)
    assert continued.trainer.global_step == run.trainer.global_step > 0
    steps = continued.recorder.steps
    assert differences({key: run.recorder.steps[key] for key in steps}, steps, "random state") == []
    assert differences(run.rows[-len(continued.rows) :], continued.rows, "logged") == []
    assert differences(dict(run.module.state_dict()), dict(continued.module.state_dict()), "module") == []
    ends = [_without_paths(each.content()) for each in (run, continued)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "lit_cv", "ema"):
        assert differences(*(end.get(part) for end in ends), part) == []


@pytest.mark.slow
def test_resume_is_exact_from_any_batch(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 1}
    run = Run(SUPERVISED, tmp_path / "whole", seed=1, kills=EveryBatch, **options)
    assert len(run.left) == 2 * 4 - 1 + 2 + 1  # batches but the first, validations, and between the epochs
    for (epoch, place), left in run.left.items():
        check_resume(SUPERVISED, run, left, tmp_path / f"{place} {epoch}", **options)


def _without_paths(content: dict[str, Any]) -> dict[str, Any]:
    for state in content["callbacks"].values():
        if isinstance(state, dict):
            state.pop("best_model_path", None)
    return content


@pytest.mark.parametrize("case", [case for case in CASES if case.moved], ids=lambda case: case.name)
def test_what_follows_the_weights_has_moved(case: Case, whole: Callable[[Case], Run]) -> None:
    run = whole(case)
    state = run.module.state_dict()
    for prefix in case.moved:
        names = [name for name in state if name.startswith(prefix)]
        assert any(not torch.equal(state[name], run.recorder.start[name]) for name in names), prefix
        copied = [
            name for name in names if (source := name.removeprefix(prefix)) in state and source.endswith("weight")
        ]
        assert all(not torch.equal(state[name], state[name.removeprefix(prefix)]) for name in copied), prefix


@promising("precision")
def test_losses_are_finite(case: Case, whole: Callable[[Case], Run], tmp_path: Path) -> None:
    run = whole(case)
    limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    half = Run(case, tmp_path, seed=1, precision="bf16-mixed", **limits)
    for each in (run, half):
        assert all(math.isfinite(loss) for loss in each.recorder.losses)
        assert all(math.isfinite(row[name]) for row in each.rows for name in row if name.endswith("loss"))
        assert all(value.isfinite().all() for value in each.module.state_dict().values())
        assert {value.dtype for value in each.module.parameters()} == {torch.float32}


@promising("copies")
def test_copies_predict_alike(case: Case, whole: Callable[[Case], Run]) -> None:
    run = whole(case)
    expected = _predictions(run.module, run.data)
    copies = {
        "deepcopy": copy.deepcopy(run.module),
        "pickle": pickle.loads(pickle.dumps(run.module)),
        "load_from_checkpoint": case.cls.load_from_checkpoint(run.last, weights_only=True),
        "load_module": load_module(run.last),
    }
    for name, module in copies.items():
        assert differences(expected, _predictions(module, run.data), name) == []


def _predictions(module: BaseModule, data: Any) -> dict[str, Any]:
    """Return what a module says of the images to predict."""
    module.eval()
    batch = next(iter(data.predict_dataloader()))
    with torch.no_grad(), fixed_seed(0):
        if hasattr(module, "adapt"):
            module.adapt(*data.support_set())
        return {"embed": module.embed(batch["image"]), "predict": module.predict_step(batch, 0)}


@promising("export")
def test_exports_equal_the_module(case: Case, whole: Callable[[Case], Run], tmp_path: Path) -> None:
    run = whole(case)
    images = next(iter(run.data.predict_dataloader()))["image"]
    exported = ExportedModule(run.module, case.exported)
    assert export_program(exported, tmp_path / "model.pt2", images) <= 1e-4
    run.module.eval()
    with torch.no_grad():
        expected = run.module.embed(images) if exported.name == "embedding" else run.module(images)
        outputs = exported(images)
    assert differences(dict(expected) if isinstance(expected, Mapping) else {exported.name: expected}, outputs) == []
    export_weights(run.module, tmp_path / "model.safetensors")
    options = {name: run.module.hparams[name] for name in ("in_channels", "stem")}
    size = tuple(run.module.hparams["image_size"])
    backbone = create_backbone(
        run.module.hparams["backbone"], image_size=size, weights=str(tmp_path / "model.safetensors"), **options
    )
    assert differences(dict(run.module.backbone.state_dict()), dict(backbone.state_dict())) == []


@promising("arguments")
def test_arguments_are_plain_and_listed(
    case: Case, whole: Callable[[Case], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    content = whole(case).content()  # which reads it with `weights_only=True`
    assert content["hyper_parameters"].keys() == dict(whole(case).module.hparams).keys()
    case.cls(**content["hyper_parameters"])
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", f"{case.cls.__module__}.{case.cls.__name__}"])
    shown = capsys.readouterr().out
    missing = [name for name in content["hyper_parameters"] if f"--model.{name}" not in shown]
    assert missing == []


@promising("evaluation")
def test_evaluation_repeats_and_changes_nothing(case: Case, whole: Callable[[Case], Run]) -> None:
    run = whole(case)
    before = _everything(run.module)
    trainer = L.Trainer(**QUIET, logger=False, enable_checkpointing=False, callbacks=case.callbacks())
    metrics: dict[str, float] = {}
    for results in trainer.validate(run.module, run.data, verbose=False):
        metrics |= results
    last = next(row for row in reversed(run.rows) if "val_loss" in row)
    assert metrics == pytest.approx(
        {name: value for name, value in last.items() if name in metrics}, abs=1e-6, nan_ok=True
    )
    assert "val_loss" in metrics
    trainer.predict(run.module, run.data)
    assert differences(before, _everything(run.module)) == []


def _everything(module: nn.Module) -> dict[str, Any]:
    """Return copies of all parameters and buffers but those of metrics, and what requires a gradient."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "tensors": {name: value.detach().clone() for name, value in tensors.items() if not name.startswith("metrics.")},
        "learns": {name: value.requires_grad for name, value in module.named_parameters()},
    }


class Waits(TorchDispatchMode):
    """Counts what makes a program wait for its device: a number read from a tensor, or a shape that hangs on values."""

    SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name in self.SYNCS:
            self.seen.append(function._schema.name)
        return function(*args, **(kwargs or {}))


class OneHotOfDevices(TorchFunctionMode):
    """Encodes classes as devices other than the CPU do: without looking at the values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.one_hot and len(args) > 1:
            return (args[0].unsqueeze(-1) == torch.arange(args[1])).long()
        return function(*args, **(kwargs or {}))


@promising("overhead")
def test_steps_do_not_wait(case: Case, whole: Callable[[Case], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = whole(case)
    passes: list[int] = []
    normalize = Backbone.normalize

    def counted(backbone: Backbone, images: Tensor) -> Tensor:
        passes.append(len(images))
        return normalize(backbone, images)

    monkeypatch.setattr(Backbone, "normalize", counted)
    with OneHotOfDevices(), Waits() as waits:
        _copy(run).step(copy.deepcopy(run.recorder.batches["train"]), "train")
    assert len(passes) == case.passes
    assert len(waits.seen) <= case.syncs, waits.seen


@promising("errors")
def test_errors_of_a_wrong_batch_name_class_and_entry(case: Case, whole: Callable[[Case], Run]) -> None:
    run = whole(case)
    batch = run.recorder.batches["train"]
    module = _copy(run)
    error = _error(module, tuple(batch.values()))
    assert _explains(error, case.cls.__name__, "dict"), error
    needed = 0
    for name, wrong in _spoilt(batch):
        error = _error(module, wrong)
        needed += error is not None
        assert error is None or _explains(error, case.cls.__name__, f"`{name}`"), error
    assert needed >= 2, "neither a missing entry nor one of a wrong dtype is refused"


def _copy(run: Run) -> BaseModule:
    """Return a copy of a run's module in training mode, at the end of its fit."""
    module = copy.deepcopy(run.module).train()
    module.trainer = run.trainer
    return module


def _error(module: BaseModule, batch: Any) -> Exception | None:
    try:
        module._run_step(batch, "train")
    except Exception as error:
        return error
    return None


def _explains(error: Exception | None, *words: str) -> bool:
    text = str(error)
    return isinstance(error, ValueError | TypeError) and "\n" not in text and all(word in text for word in words)


def _spoilt(batch: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of a batch that lack an entry, or have one of a wrong dtype, and the entry's name."""
    for name, value in batch.items():
        others = {key: copy.deepcopy(other) for key, other in batch.items() if key != name}
        yield name, others
        if isinstance(value, dict):
            for inner, wrong in _spoilt(value):
                yield inner, {**copy.deepcopy(others), name: wrong}
        elif name in ("image", "views", "strong"):
            yield name, {**others, name: value.to(torch.int32)}
        elif name == "label":
            yield name, {**others, name: value.to(torch.complex64)}


def test_every_row_is_of_an_approach() -> None:
    classes = {case.cls for case in CASES}
    assert {case.cls for case in VARIANTS} <= classes
    assert len({case.name for case in [*CASES, *VARIANTS]}) == len(CASES) + len(VARIANTS)


def test_a_probe_is_in_checkpoints_and_logged(whole: Callable[[Case], Run]) -> None:
    run = whole(next(case for case in VARIANTS if case.variant == "lars, with a probe"))
    assert run.content()["callbacks"]["OnlineProbe"].keys() == {"probe", "optimizer", "classes"}
    names = {name for row in run.rows for name in row}
    assert {"val_loss", "val_probe_acc", "val_knn_acc", "train_loss"} <= names


def test_an_average_is_a_part_that_other_runs_start_from(whole: Callable[[Case], Run]) -> None:
    run = whole(next(case for case in CASES if case.cls is BYOL))
    state = run.content()["state_dict"]
    for part, prefix in ((":target", "target.backbone."), ("", "backbone.")):
        taken = create_backbone("conv4", weights=f"{run.last}{part}").state_dict()
        assert all(torch.equal(value, state[f"{prefix}{key}"]) for key, value in taken.items())


def test_the_page_of_contracts_is_that_of_the_rows() -> None:
    page = table.PATH.read_text(encoding="utf-8")
    assert page == table.render(), "run: python -m tests.contracts.table"


def test_error_asks_for_a_row(whole: Callable[[Case], Run]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"needs batches with `views`.*add a row .* in tests/contracts"):
        whole(Case(SimCLRModule, variant="without a row", is_default=True))
