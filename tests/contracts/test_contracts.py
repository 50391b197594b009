"""The contracts of every approach, tested for every subclass of `BaseModule`, including those that users write.

All tests of an approach share one uninterrupted run. Its data and options are a row in `cases.py`.
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

from lit_cv import (
    DetectionModule,
    MAEModule,
    MultiTaskModule,
    PrototypicalModule,
    SelfTrainingModule,
    SimCLRModule,
    SupervisedModule,
)
from lit_cv.cli import main
from lit_cv.contracts import module_extras
from lit_cv.modules.base import BaseModule
from lit_cv.modules.loading import load_module
from lit_cv.nn import Backbone, create_backbone
from lit_cv.randomness import fixed_seed
from lit_cv.running.export import ExportedModule, export_program, export_weights
from lit_cv.signatures import parameters
from tests.contracts import table
from tests.contracts.approaches import BYOL
from tests.contracts.cases import VARIANTS, Case, cases
from tests.contracts.runs import PLACES, QUIET, KillSnapshotsOfEveryBatch, Run, differences

CASES = cases()
SUPERVISED = next(case for case in CASES if case.cls is SupervisedModule)
QUICK = (
    SupervisedModule,
    SimCLRModule,
    MAEModule,
    MultiTaskModule,
    DetectionModule,
    SelfTrainingModule,
    PrototypicalModule,
)
QUICK_CONTRACTS = {"export": (SupervisedModule,), "resume": QUICK, "precision": QUICK, "copies": QUICK}


def promising(contract: str) -> Any:
    """Return a decorator that parametrizes a test by the approaches that promise a contract."""
    promised = [case for case in CASES if contract not in case.not_promised]
    return pytest.mark.parametrize("case", [_row(case, contract) for case in promised])


def _row(case: Case, contract: str) -> Any:
    return pytest.param(case, marks=[] if _is_quick(case, contract) else [pytest.mark.slow], id=case.name)


def _is_quick(case: Case, contract: str) -> bool:
    """Return whether the quick test command checks a contract that takes long: always for classes without a row."""
    return case.is_default or contract not in QUICK_CONTRACTS or case.cls in QUICK_CONTRACTS[contract]


def kills() -> Any:
    """Return a decorator that parametrizes a test by rows and places of a kill."""
    rows = [case for case in CASES if "resume" not in case.not_promised]
    quick = [(case, PLACES[0]) for case in rows if _is_quick(case, "resume")]
    slow = [(case, place) for case in rows for place in PLACES if (case, place) not in quick]
    slow += [(case, place) for case in VARIANTS for place in PLACES]
    params = [pytest.param(case, place, id=f"{case.name}, {place}") for case, place in quick]
    params += [pytest.param(case, place, id=f"{case.name}, {place}", marks=pytest.mark.slow) for case, place in slow]
    return pytest.mark.parametrize(("case", "place"), params)


@pytest.fixture(scope="module")
def run_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Run]:
    """A function that returns the uninterrupted run of a row, and runs it once."""
    runs: dict[str, Run] = {}

    def run(case: Case) -> Run:
        if case.name not in runs:
            weights = run(SUPERVISED).last if case.pretrained else None
            try:
                runs[case.name] = Run(case, tmp_path_factory.mktemp("uninterrupted"), seed=1, weights=weights)
            except Exception as error:
                if not case.is_default:
                    raise
                pytest.fail(
                    f"{case.name} cannot be trained on images with labels ({error}): add a row with its data to ROWS "
                    "in tests/contracts/cases.py."
                )
        return runs[case.name]

    return run


@kills()
def test_resume_is_exact(case: Case, place: str, run_case: Callable[[Case], Run], tmp_path: Path) -> None:
    run = run_case(case)
    for epoch in case.killed_in:
        check_resume(case, run, run.snapshots[epoch, place], tmp_path / str(epoch))


def check_resume(case: Case, run: Run, snapshot: Path, folder: Path, **options: Any) -> None:
    continued = Run(case, folder, seed=2, continued=snapshot, **options)
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
    run = Run(SUPERVISED, tmp_path / "uninterrupted", seed=1, snapshots=KillSnapshotsOfEveryBatch, **options)
    assert len(run.snapshots) == 2 * 4 - 1 + 2 + 1  # batches except the first, validations, and between the epochs
    for (epoch, place), snapshot in run.snapshots.items():
        check_resume(SUPERVISED, run, snapshot, tmp_path / f"{place} {epoch}", **options)


def _without_paths(content: dict[str, Any]) -> dict[str, Any]:
    for state in content["callbacks"].values():
        if isinstance(state, dict):
            state.pop("best_model_path", None)
    return content


@pytest.mark.parametrize("case", [case for case in CASES if case.moved], ids=lambda case: case.name)
def test_moving_averages_are_updated(case: Case, run_case: Callable[[Case], Run]) -> None:
    run = run_case(case)
    state = run.module.state_dict()
    for prefix in case.moved:
        names = [name for name in state if name.startswith(prefix)]
        assert any(not torch.equal(state[name], run.recorder.start[name]) for name in names), prefix
        averages = [
            name for name in names if (source := name.removeprefix(prefix)) in state and source.endswith("weight")
        ]
        assert all(not torch.equal(state[name], state[name.removeprefix(prefix)]) for name in averages), prefix


@promising("precision")
def test_losses_are_finite(case: Case, run_case: Callable[[Case], Run], tmp_path: Path) -> None:
    run = run_case(case)
    limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    weights = run_case(SUPERVISED).last if case.pretrained else None
    half = Run(case, tmp_path, seed=1, weights=weights, precision="bf16-mixed", **limits)
    for each in (run, half):
        assert all(math.isfinite(loss) for loss in each.recorder.losses)
        assert all(math.isfinite(row[name]) for row in each.rows for name in row if name.endswith("loss"))
        assert all(value.isfinite().all() for value in each.module.state_dict().values())
        assert {value.dtype for value in each.module.parameters()} == {torch.float32}


@promising("copies")
def test_copies_predict_the_same(case: Case, run_case: Callable[[Case], Run]) -> None:
    run = run_case(case)
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
    """Return a module's features and predictions of the images to predict."""
    module.eval()
    batch = next(iter(data.predict_dataloader()))
    with torch.no_grad(), fixed_seed(0):
        if hasattr(module, "adapt"):
            module.adapt(*data.support_set())
        return {"embed": module.embed(batch["image"]), "predict": module.predict_step(batch, 0)}


@promising("export")
def test_exports_equal_module(case: Case, run_case: Callable[[Case], Run], tmp_path: Path) -> None:
    run = run_case(case)
    images = next(iter(run.data.predict_dataloader()))["image"]
    exported = ExportedModule(run.module)
    assert export_program(exported, tmp_path / "model.pt2", images) <= 1e-4
    run.module.eval()
    with torch.no_grad():
        extras = module_extras(run.module)
        forward = run.module if extras.fixed_outputs is None else extras.fixed_outputs
        expected = run.module.embed(images) if exported.name == "embedding" else forward(images)
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
def test_arguments_are_plain(case: Case, run_case: Callable[[Case], Run]) -> None:
    content = run_case(case).content()  # loaded with `weights_only=True`
    assert content["hyper_parameters"].keys() == dict(run_case(case).module.hparams).keys()
    case.cls(**content["hyper_parameters"])


@pytest.mark.slow
@promising("arguments")
def test_arguments_are_listed_in_help(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", f"{case.cls.__module__}.{case.cls.__name__}"])
    shown = capsys.readouterr().out
    assert [name for name in parameters(case.cls) if f"--model.{name}" not in shown] == []


@promising("evaluation")
def test_evaluation_is_repeatable_and_pure(case: Case, run_case: Callable[[Case], Run]) -> None:
    run = run_case(case)
    before = _state(run.module)
    trainer = L.Trainer(**QUIET, logger=False, enable_checkpointing=False, callbacks=case.callbacks())
    metrics: dict[str, float] = {}
    for results in trainer.validate(run.module, run.data, verbose=False):
        metrics |= results
    last = next(row for row in reversed(run.rows) if "val_loss" in row)
    assert metrics == pytest.approx(
        {name: value for name, value in last.items() if name in metrics}, rel=1e-5, abs=1e-6, nan_ok=True
    )
    assert "val_loss" in metrics
    trainer.predict(run.module, run.data)
    assert differences(before, _state(run.module)) == []


def _state(module: nn.Module) -> dict[str, Any]:
    """Return copies of all parameters and buffers except those of metrics, and which require a gradient."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "tensors": {name: value.detach().clone() for name, value in tensors.items() if not name.startswith("metrics.")},
        "requires_grad": {name: value.requires_grad for name, value in module.named_parameters()},
    }


class SyncRecorder(TorchDispatchMode):
    """Records operations that wait for the device: reading a number, or shapes that depend on values."""

    SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name in self.SYNCS:
            self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


class OneHotWithoutSync(TorchFunctionMode):
    """Computes `one_hot` as on devices other than the CPU, without checking the values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.one_hot and len(args) > 1:
            return (args[0].unsqueeze(-1) == torch.arange(args[1])).long()
        return function(*args, **(kwargs or {}))


@promising("overhead")
def test_steps_do_not_wait_for_device(
    case: Case, run_case: Callable[[Case], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_case(case)
    passes: list[int] = []
    normalize = Backbone.normalize

    def count(backbone: Backbone, images: Tensor) -> Tensor:
        passes.append(len(images))
        return normalize(backbone, images)

    monkeypatch.setattr(Backbone, "normalize", count)
    with OneHotWithoutSync(), SyncRecorder() as syncs:
        _copy(run).step(copy.deepcopy(run.recorder.batches["train"]), "train")
    assert len(passes) == case.passes
    assert len(syncs.names) <= case.syncs, syncs.names


@promising("errors")
def test_wrong_batch_error_names_class_and_entry(case: Case, run_case: Callable[[Case], Run]) -> None:
    run = run_case(case)
    batch = run.recorder.batches["train"]
    module = _copy(run)
    error = _error(module, tuple(batch.values()))
    assert _explains(error, case.cls.__name__, "dict"), error
    refused = 0
    for name, wrong in _wrong_batches(batch):
        error = _error(module, wrong)
        refused += error is not None
        assert error is None or _explains(error, case.cls.__name__, f"`{name}`"), error
    assert refused >= 2, "neither a missing entry nor one of a wrong dtype is refused"


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


def _wrong_batches(batch: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of a batch with a missing entry or one of a wrong dtype, each with the entry's name."""
    for name, value in batch.items():
        others = {key: copy.deepcopy(other) for key, other in batch.items() if key != name}
        yield name, others
        if isinstance(value, dict):
            for inner, wrong in _wrong_batches(value):
                yield inner, {**copy.deepcopy(others), name: wrong}
        elif name in ("image", "views", "strong"):
            yield name, {**others, name: value.to(torch.int32)}
        elif name == "label":
            yield name, {**others, name: value.to(torch.complex64)}


def test_rows_are_valid_and_unique() -> None:
    classes = {case.cls for case in CASES}
    assert {case.cls for case in VARIANTS} <= classes
    assert len({case.name for case in [*CASES, *VARIANTS]}) == len(CASES) + len(VARIANTS)


def test_probe_is_saved_and_logged(run_case: Callable[[Case], Run]) -> None:
    run = run_case(next(case for case in VARIANTS if case.variant == "lars, with a probe"))
    assert run.content()["callbacks"]["OnlineProbe"].keys() == {"probe", "optimizer", "classes"}
    names = {name for row in run.rows for name in row}
    assert {"val_loss", "val_probe_acc", "val_knn_acc", "train_loss"} <= names


def test_weights_can_be_loaded_from_moving_average(run_case: Callable[[Case], Run]) -> None:
    run = run_case(next(case for case in CASES if case.cls is BYOL))
    state = run.content()["state_dict"]
    for part, prefix in ((":target", "target.backbone."), ("", "backbone.")):
        loaded = create_backbone("conv4", weights=f"{run.last}{part}").state_dict()
        assert all(torch.equal(value, state[f"{prefix}{key}"]) for key, value in loaded.items())


def test_docs_page_matches_rows() -> None:
    page = table.PATH.read_text(encoding="utf-8")
    assert page == table.contracts_page(), "run: python -m tests.contracts.table"


def test_error_asks_for_row(run_case: Callable[[Case], Run]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"needs batches with `views`.*add a row .* in tests/contracts"):
        run_case(Case(SimCLRModule, variant="without a row", is_default=True))
