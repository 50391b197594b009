"""A foreign weights file takes no memory beyond its size, and errors are one line that names the file."""

import logging
import random
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_cv.callbacks import TrainingCurves
from lit_cv.callbacks.run_output import guarded
from lit_cv.checkpoint_file import RefusedFileError, load_tensors, read_checkpoint
from lit_cv.modules.loading import load_module
from lit_cv.nn import Backbone, checkpoint_options, create_backbone, load_head
from lit_cv.studies.folds import Fold
from lit_cv.studies.kfold import _read_predictions, _weights_of
from tests.security.hostile import QUICK, SUPERVISED, error_line, save_hostile

State = dict[str, Any]
NETWORKS: dict[str, dict[str, Any]] = {
    "conv4": {},
    "resnet9_small": {},
    "vit_micro_p4": {"image_size": 16},
}
VIT = "vit_micro_p4"


class Odd(Tensor):
    """A tensor subclass, whose operations could do anything."""


@pytest.fixture(scope="module")
def networks() -> dict[str, Backbone]:
    """Networks by name."""
    torch.manual_seed(0)
    return {name: create_backbone(name, **options).eval() for name, options in NETWORKS.items()}


@pytest.fixture(scope="module")
def states(networks: dict[str, Backbone]) -> dict[str, State]:
    """State dicts of the networks, by name."""
    return {name: dict(network.state_dict()) for name, network in networks.items()}


def peak() -> int:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def refused(name: str, path: Path, content: Any, **options: Any) -> str:
    """Return the error of building a network from a file of `content`."""
    torch.save(content, path)
    before = peak()
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        create_backbone(name, weights=str(path), **options)
    assert type(raised.value) is ValueError
    error = str(raised.value)
    assert path.name in error
    assert "\n" not in error
    assert len(error) < 1200
    assert peak() - before < 300
    return error


EXPANDED: dict[str, Callable[[], Any]] = {
    "mean": lambda: {"mean": torch.zeros(1).expand(3 * 10**8)},
    "body.grid_size": lambda: {"body.grid_size": torch.tensor([2]).expand(10**9)},
    "nested": lambda: {"optimizer": [({"x": [torch.zeros(1).expand(2 * 10**8)]},)]},
    "a parameter": lambda: {"x": nn.Parameter(torch.zeros(1).expand(2 * 10**8))},
    "strides": lambda: {"x": torch.zeros(20_000).as_strided((20_000, 20_000), (0, 1))},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", EXPANDED)
def test_expanded_tensors_are_refused(states: dict[str, State], tmp_path: Path, name: str, legacy: bool) -> None:
    content = {**states["conv4"], **EXPANDED[name]()}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    before = peak()
    with pytest.raises(ValueError, match=r"x\.pt cannot be read as weights: it holds '.*', a tensor that expands"):
        create_backbone("conv4", weights=str(tmp_path / "x.pt"))
    assert peak() - before < 200


def test_small_views_are_loaded(tmp_path: Path) -> None:
    values = torch.arange(12.0)
    content = {
        "all": values,
        "half": values[::2],
        "row": values[:1].expand(1000),
        "tied": [values, (values.view(3, 4),)],
    }
    torch.save(content, tmp_path / "x.pt")
    loaded = load_tensors(tmp_path / "x.pt")
    assert torch.equal(loaded["half"], values[::2])
    assert torch.equal(loaded["row"], torch.zeros(1000))
    assert torch.equal(loaded["tied"][1][0], values.view(3, 4))


def test_recursive_and_deep_files_are_walked_once(tmp_path: Path) -> None:
    ring: list[Any] = []
    ring += [ring] * 1000
    deep: list[Any] = [torch.zeros(1)]
    for _ in range(300):
        deep = [deep] * 10
    torch.save({"ring": ring, "deep": deep}, tmp_path / "x.pt")
    assert set(load_tensors(tmp_path / "x.pt")) == {"ring", "deep"}


KINDS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "compressed sparse": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.zeros(10**12, device="meta"),
    "subclass": lambda: torch.zeros(3).as_subclass(Odd),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors_are_refused(states: dict[str, State], tmp_path: Path, kind: str) -> None:
    error = refused("conv4", tmp_path / "x.pt", {**states["conv4"], "body.odd": KINDS[kind]()})
    assert kind == "subclass" or "it holds 'body.odd', a tensor that is sparse, quantized or without data" in error


def test_known_tensor_subclasses_are_refused(tmp_path: Path) -> None:
    torch.save({"a": {"odd": torch.zeros(3).as_subclass(Odd)}}, tmp_path / "x.pt")
    with torch.serialization.safe_globals([Odd]), pytest.raises(RefusedFileError, match=r"'a\.odd', a Odd; only"):
        load_tensors(tmp_path / "x.pt")


def test_bytearrays_are_not_built(tmp_path: Path) -> None:
    pickle = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85Rs."  # 10**10
    torch.save({"a": torch.zeros(2)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, pickle if record.filename.endswith("data.pkl") else old.read(record))
    before = peak()
    with pytest.raises(RefusedFileError, match="it builds bytes"):
        load_tensors(tmp_path / "x.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    original = (tmp_path / "x.pt").read_bytes()
    start = original.index(b"\x80\x02", original.index(b"type_sizes"))
    (tmp_path / "x.pt").write_bytes(original[:start] + pickle)
    with pytest.raises(RefusedFileError, match="it builds bytes"):
        load_tensors(tmp_path / "x.pt")
    assert peak() - before < 200


def test_wrong_safetensors_are_refused(states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({**states["conv4"], "mean": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: its mean has the shape \(2, 2\)"):
        create_backbone("conv4", weights=str(path))
    save_file({**states["conv4"], "body.x": torch.zeros(2, dtype=torch.complex64)}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: body\.x holds complex numbers"):
        create_backbone("conv4", weights=str(path))


def compressed(path: Path) -> bytes:
    """Return a small torch archive that unpacks to 200 MB of weights and valid predictions of a fold."""
    predictions = {"positions": torch.arange(4), "probabilities": torch.ones(4, 2)}
    torch.save({"state_dict": {"x": torch.zeros(50_000_000)}, **predictions}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".z"), "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return path.with_suffix(".z").read_bytes()


def two_lists(archive: bytes) -> bytes:
    """Return the archive with a second list of records, which Python finds and which declares them uncompressed."""
    start = archive.index(b"PK\x01\x02")
    end = archive.index(b"PK\x05\x06")
    listed = bytearray(archive[start:end])
    for at in range(len(listed)):
        if listed[at : at + 4] == b"PK\x01\x02":
            listed[at + 10 : at + 12] = b"\0\0"
            listed[at + 24 : at + 28] = listed[at + 20 : at + 24]
    return archive[:end] + bytes(listed) + archive[end:]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A compressed archive."""
    return compressed(tmp_path_factory.mktemp("packed") / "x.pt")


@pytest.mark.slow
def test_compressed_archives_are_refused(packed: bytes, tmp_path: Path) -> None:
    before = peak()
    for content in (packed, packed + bytes(66_000), packed + bytes(10), two_lists(packed), packed[:-30]):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"its records are compressed|its archive|does not end|its list of records"
        ):
            load_tensors(tmp_path / "x.pt")
        for read in (read_checkpoint, lambda path: create_backbone("conv4", weights=str(path))):
            with pytest.raises(ValueError, match=r"x\.pt"):
                read(tmp_path / "x.pt")
    assert peak() - before < 100
    (tmp_path / "x.pt").write_bytes(two_lists(packed))
    with pytest.raises(ValueError, match="its list of records is not at its end"):
        load_tensors(tmp_path / "x.pt")


@pytest.mark.slow
def test_folds_refuse_compressed_and_expanded_files(packed: bytes, tmp_path: Path) -> None:
    fold = Fold(1, 1, np.arange(4))
    path = tmp_path / "predictions.pt"
    before = peak()
    path.write_bytes(packed + bytes(66_000))
    with pytest.raises(ValueError, match=r"predictions\.pt is damaged: it holds no predictions"):
        _read_predictions(path, fold, None)
    with pytest.raises(ValueError, match=r"predictions\.pt is damaged: it holds no weights"):
        _weights_of(path)
    torch.save({"positions": torch.zeros(1, dtype=torch.int64).expand(10**9), "probabilities": torch.ones(1, 2)}, path)
    with pytest.raises(ValueError, match=r"predictions\.pt is damaged: it holds no predictions"):
        _read_predictions(path, fold, None)
    assert peak() - before < 100
    torch.save({"positions": torch.arange(4), "probabilities": torch.ones(4, 2), "state_dict": {}}, path)
    assert _read_predictions(path, fold, 2)[0] == [0, 1, 2, 3]
    assert _weights_of(path) == {}


WRONG: dict[str, tuple[str, Callable[[], State], str]] = {
    "mean of no shape": ("conv4", lambda: {"mean": torch.tensor(0.5)}, "its mean has the shape ()"),
    "mean of two dimensions": ("conv4", lambda: {"mean": torch.zeros(3, 3)}, "its mean has the shape (3, 3)"),
    "no mean": ("conv4", lambda: {"mean": torch.zeros(0)}, "its mean has the shape (0,)"),
    "mean of integers": ("conv4", lambda: {"mean": torch.zeros(3, dtype=torch.int64)}, "its mean is not a float"),
    "mean of text": ("conv4", lambda: {"mean": "0.5"}, "its mean is not a float"),
    "mean that is nan": ("conv4", lambda: {"mean": torch.full((3,), torch.nan)}, "its mean is not finite for"),
    "std of zero": ("conv4", lambda: {"std": torch.zeros(3)}, "its std is not finite and positive"),
    "std of many": ("conv4", lambda: {"std": torch.ones(10**6)}, "its std has the shape"),
    "complex mean": ("conv4", lambda: {"mean": torch.zeros(3) * 1j}, "mean holds complex numbers"),
    "complex weights": ("conv4", lambda: {"body.x": torch.zeros(3) * 1j}, "body.x holds complex numbers"),
    "a key of many lines": ("conv4", lambda: {"body.\n\x1b" + "x" * 10**5: torch.zeros(2) * 1j}, "complex numbers"),
    "positions of no dimension": (VIT, lambda: {"body.pos_embed": torch.tensor(1.0)}, "its pos_embed has the shape ()"),
    "positions of one": (VIT, lambda: {"body.pos_embed": torch.zeros(17)}, "its pos_embed has the shape (17,)"),
    "positions of four": (VIT, lambda: {"body.pos_embed": torch.zeros(1, 17, 128, 1)}, "its pos_embed has the shape"),
    "no positions": (VIT, lambda: {"body.pos_embed": torch.zeros(1, 0, 128)}, "its pos_embed has the shape (1, 0, 128"),
    "a huge grid": (VIT, lambda: {"body.grid_size": torch.tensor([10**9, 10**9])}, "its grid_size is 1000000000 x"),
    "a negative grid": (VIT, lambda: {"body.grid_size": torch.tensor([-4, -4])}, "its grid_size is -4 x -4"),
    "an empty grid": (VIT, lambda: {"body.grid_size": torch.tensor([0, 0])}, "its grid_size is 0 x 0"),
    "a grid of floats": (VIT, lambda: {"body.grid_size": torch.tensor([4.0, 4.0])}, "its grid_size has shape"),
    "a grid of three": (VIT, lambda: {"body.grid_size": torch.tensor([4, 4, 1])}, "its grid_size has shape"),
    "patches of no dimension": (
        VIT, lambda: {"body.patch_embed.proj.weight": torch.tensor(1.0)}, "its patch embedding has the shape ()",
    ),
    "another patch": (
        VIT, lambda: {"body.patch_embed.proj.weight": torch.zeros(128, 3, 16, 16)}, "its patch size is 16 pixels",
    ),
    "huge patches": (
        VIT, lambda: {"body.patch_embed.proj.weight": torch.zeros(1, 1, 2048, 2048)}, "square patches of at most",
    ),
    "a stem of no dimension": ("conv4", lambda: {"body.blocks.0.0.weight": torch.tensor(1.0)}, "has the shape ()"),
    "an empty stem": ("conv4", lambda: {"body.blocks.0.0.weight": torch.zeros(64, 0, 3, 3)}, "holds no weights for"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tensors_give_one_line_error(states: dict[str, State], tmp_path: Path, case: str) -> None:
    name, changes, message = WRONG[case]
    assert message in refused(name, tmp_path / "x.pt", {**states[name], **changes()})


def test_claimed_shapes_take_no_memory(tmp_path: Path) -> None:
    grid = {"pos_embed": torch.zeros(1, 4_000_000, 1), "grid_size": torch.tensor([2000, 2000])}
    patch = {"patch_embed.proj.weight": torch.zeros(1, 1, 4, 4)}
    assert "its grid has 2000 x 2000 patches" in refused(VIT, tmp_path / "x.pt", {**grid, **patch})
    patch = {"patch_embed.proj.weight": torch.zeros(1, 1, 16, 16)}
    assert "its grid has 2000 x 2000 patches" in refused("vit_b_16", tmp_path / "x.pt", {**grid, **patch})
    theirs = {"encoder.pos_embedding": torch.zeros(1, 1 + 1000**2, 1), "conv_proj.weight": torch.zeros(1, 1, 16, 16)}
    assert "which matches no grid" in refused("vit_b_16", tmp_path / "x.pt", theirs)
    theirs = {"encoder.pos_embedding": torch.zeros(1, 65, 1), "conv_proj.weight": torch.zeros(1, 1, 256, 256)}
    assert "its patch size is 256 pixels" in refused("vit_b_16", tmp_path / "x.pt", theirs)


@pytest.mark.parametrize("case", ["mean of two dimensions", "positions of one", "a huge grid"])
def test_program_ends_with_one_line_error(
    states: dict[str, State], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, changes, message = WRONG[case]
    torch.save({**states[name], **changes()}, "x.pt")
    args = ["fit", "--config=supervised", f"--model.backbone={name}", "--model.weights=x.pt", *QUICK]
    error = error_line(args, monkeypatch)
    assert error is not None
    assert "x.pt" in error
    assert message in error


def test_wrong_heads_and_options_of_checkpoints(tmp_path: Path) -> None:
    head = nn.Linear(4, 2)
    fields = {"state_dict": {"head.weight": torch.zeros(2, 4) * 1j, "head.bias": torch.zeros(2)}}
    path = save_hostile(tmp_path / "x.ckpt", **fields)
    with pytest.raises(ValueError, match=r"x\.ckpt: weight holds complex numbers"):
        load_head(head, str(path))
    for wrong in ({"backbone": 7}, {"stem": ["small"]}, {"backbone": "x" * 10**5}):
        save_hostile(path, hyper_parameters=wrong)
        with pytest.raises(ValueError, match=r"x\.ckpt is damaged: its hyperparameter (backbone|stem) is not a name"):
            checkpoint_options(str(path))
    save_hostile(path, hyper_parameters={"backbone": "conv4", "stem": None})
    assert checkpoint_options(str(path))["backbone"] == "conv4"


def built(name: str, path: Path, options: dict[str, Any]) -> Backbone | ValueError:
    """Return the network, or the error of building it."""
    try:
        return create_backbone(name, weights=str(path), **options)
    except ValueError as error:
        return error


def odd_tensor(draw: random.Random) -> Any:
    """Return a tensor or another object that no network has."""
    shape = draw.choice([(), (0,), (1,), (2,), (3, 3), (1, 17, 8), (1, 4, 128), (8, 3, 3, 3), (2,) * 6, (64, 0, 3, 3)])
    kind = draw.choice([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8])
    return draw.choice([torch.ones(shape, dtype=kind)] * 5 + [None, "x", 3, [torch.ones(shape)], {"a": 1}])


def mutated(state: State, draw: random.Random) -> Any:
    """Change one to three entries of a state dict, or its container."""
    state = dict(state)
    first = ["mean", "std", *(key for key in state if key.endswith(("grid_size", "pos_embed", "proj.weight")))]
    for _ in range(draw.randint(1, 3)):
        key = draw.choice([*first, *list(state)[:6]])
        change = draw.randrange(4)
        value = state.pop(key, None)
        if change == 0:
            state[key] = odd_tensor(draw)
        elif change == 1 and isinstance(value, Tensor):
            state[key] = draw.choice([value[None], value.flatten(), value[:0] if value.ndim else value, -value])
        elif change == 2:
            state[draw.choice(["backbone.", "module.", "x" * 300, "\n"]) + key] = value
    return draw.choice([state] * 4 + [{"state_dict": state}, {"model": state}, [state], {"state_dict": [1]}])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_fuzzed_weights(networks: dict[str, Backbone], states: dict[str, State], tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    options: dict[str, Any] = NETWORKS[name]
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    path, built_count = tmp_path / "x.pt", 0
    for case in range(20):
        torch.save(mutated(states[name], draw), path)
        result = built(name, path, options if case % 2 else {})
        if isinstance(result, ValueError):
            assert type(result) is ValueError, case
            assert "x.pt" in str(result), case
            assert "\n" not in str(result), case
            continue
        built_count += 1
        assert result.eval()(images).shape == networks[name](images).shape
    assert 0 < built_count < 20


@pytest.mark.parametrize("step", [-1, 2**53, 10**30])
def test_impossible_steps_are_refused(tmp_path: Path, step: int) -> None:
    path = save_hostile(tmp_path / "x.ckpt", global_step=step)
    with pytest.raises(ValueError, match=r"x\.ckpt is damaged: its `global_step` is not a number of steps"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"class_names": ["cat", 10**400]},
        {"class_names": ["x" * 10**5]},
        {"class_path": "lit_cv." + "x" * 10**5},
        {"hyper_parameters": {1: 2}},
        {"state_dict": {1: torch.zeros(2)}},
    ],
)
def test_impossible_texts_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    outer = {name: value for name, value in fields.items() if name in ("hyper_parameters", "state_dict")}
    metadata = {"class_path": SUPERVISED, **{name: value for name, value in fields.items() if name not in outer}}
    path = save_hostile(tmp_path / "x.ckpt", lit_cv=metadata, **outer)
    with pytest.raises(ValueError, match=r"x\.ckpt is damaged") as raised:
        read_checkpoint(path)
    assert len(str(raised.value)) < 1000


BUILDS: dict[str, dict[str, Any]] = {
    "in_channels nan": {"in_channels": float("nan")},
    "in_channels inf": {"in_channels": float("inf")},
    "image_size": {"image_size": 10**30, "backbone": "vit_micro"},
    "image_size of conv4": {"image_size": 10**30},
    "backbone": {"backbone": "x" * 10**5},
    "stem": {"stem": "x\n" * 10**5},
    "classes": {"num_classes": "x" * 10**5},
    "loss": {"label_smoothing": "x" * 10**5},
    "mean": {"mean": [0.5] * 10**4},
}


@pytest.mark.parametrize("case", BUILDS)
def test_invalid_hyperparameters_give_one_line_error(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_hostile(in_tmp / "x.ckpt", hyper_parameters={"backbone": "conv4", "num_classes": 2, **BUILDS[case]})
    with pytest.raises(ValueError, match=r"x\.ckpt") as raised:
        load_module(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    error = error_line(["export", "x.ckpt"], monkeypatch)
    assert error is not None
    assert "x.ckpt" in error
    assert "Traceback" not in caplog.text


def test_complex_weights_and_odd_metadata_are_refused(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    state = content["state_dict"]
    key = next(iter(state))
    torch.save({**content, "state_dict": {**state, key: state[key] * 1j}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt: its weights do not fit .* holds complex numbers"):
        load_module(tmp_path / "x.ckpt")
    state._metadata = {"": 3, "backbone": 7}
    torch.save({**content, "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt: its weights do not fit"):
        load_module(tmp_path / "x.ckpt")


def test_folder_at_figure_path_gives_one_line_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "training_curves.png").mkdir()
    with caplog.at_level(logging.WARNING, "lit_cv"), guarded("Drawing"):
        (tmp_path / "training_curves.png").write_bytes(b"x")
    assert "Drawing failed; the run continues: [Errno 21] Is a directory" in caplog.text
    assert "Traceback" not in caplog.text
    with guarded("Drawing"):
        raise RuntimeError("a mistake")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, 10**400, True, "7", [1], None, torch.zeros(2)])
def test_invalid_seconds_are_ignored(seconds: Any) -> None:
    curves = TrainingCurves()
    curves.load_state_dict({"seconds": seconds})
    assert curves.state_dict() == {"seconds": 0.0}


def test_run_seconds_are_restored() -> None:
    curves = TrainingCurves()
    curves.load_state_dict({})
    curves.load_state_dict({"seconds": 12.5})
    assert curves.state_dict() == {"seconds": 12.5}
