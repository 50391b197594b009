"""The writer of `docs/exports.md`, the table of programs by module and backbone.

`python -m tests.contracts.export_table` exports what the page lacks, everything in an hour or two; with names of rows,
it exports these anew.
"""

import copy
import itertools
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lit_cv import DetectionModule, FineTuneModule, MultiTaskModule, SegmentationModule, SupervisedModule
from lit_cv.contracts import module_extras
from lit_cv.modules.base import BaseModule
from lit_cv.modules.feature_comparison import FeatureComparisonModule
from lit_cv.nn.detection import Detector
from lit_cv.running import export
from lit_cv.running.error_origin import is_own_error
from lit_cv.running.export import ExportedEpisode, ExportedModule, export_onnx, export_program
from tests.contracts.cases import CONV, DENSE, TASKS, Case, cases
from tests.contracts.data import Episodes, Images, Scenes
from tests.contracts.runs import QUIET
from tests.running.test_export import spread

PATH = Path(__file__).parents[2] / "docs" / "exports.md"
BACKBONES = {
    "ResNet": "timm/test_resnet",
    "ConvNeXt": "timm/test_convnext",
    "EfficientNet": "timm/test_efficientnet",
    "own ViT": "vit_micro_p8",
    "DINOv3": "timm/vit_small_patch16_dinov3",
}
SIDE = 32  # pixels
HEAD = """# What can be exported

Every module is exported with a small network of each family, as a torch program and as an ONNX program. A cell is
green if both programs take raw uint8 images in batches of 1, 3 and 8 and return the module's output within 1e-4, the
ONNX program in onnxruntime in a process without torch. `(n)` refers to the error that refuses a combination.
`python -m tests.contracts.export_table` writes this page; tests export a part of it.

"""
ALONE = """
import sys
sys.modules["torch"] = sys.modules["lit_cv"] = sys.modules["lightning"] = None
import numpy as np, onnxruntime
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/model.onnx")
names = [output.name for output in session.get_outputs()]
with np.load(folder + "/inputs.npz") as inputs:
    values = session.run(names, {entry.name: inputs[f"arr_{i}"] for i, entry in enumerate(session.get_inputs())})
np.savez(folder + "/outputs.npz", **dict(zip(names, values)))
"""


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        case: The module, its options and its data.
        part: What of the module is exported, for its name.
    """

    case: Case
    part: str = ""

    @property
    def name(self) -> str:
        """Name of the row."""
        return f"{self.case.name}, {self.part}" if self.part else self.case.name


FURTHER = [
    *(
        Case(DetectionModule, DENSE | {"detector": detector}, lambda: Scenes(targets="instances"), variant=detector)
        for detector in ("retinanet", "faster_rcnn", "mask_rcnn")
    ),
    Case(DetectionModule, DENSE | {"strategy": "lora", "lora_rank": 4}, Scenes, variant="LoRA"),
    Case(FineTuneModule, CONV | {"strategy": "lora", "lora_rank": 4}, variant="LoRA"),
    Case(SegmentationModule, DENSE | {"head": "deeplab"}, Scenes, variant="deeplab"),
    Case(
        MultiTaskModule,
        CONV | {"tasks": {"shape": TASKS["shape"], "objects": {**TASKS["objects"], "detector": "mask_rcnn"}}},
        lambda: Scenes(targets="instances"),
        variant="mask_rcnn",
    ),
]


def rows() -> list[Row]:
    """Return a row for every approach, and further ones for detectors, heads, LoRA and episodes."""
    everything = cases()
    episodes = [Row(case, "episode") for case in everything if issubclass(case.cls, FeatureComparisonModule)]
    listed = [*map(Row, [*everything, *FURTHER]), *episodes]
    return sorted(listed, key=lambda row: (not row.case.cls.__module__.startswith("lit_cv."), row.name))


class ProgramAlone:
    """An ONNX program that runs in a process without torch, in place of `OnnxProgram`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.program = path.read_bytes()

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.onnx").write_bytes(self.program)
            np.savez(Path(folder) / "inputs.npz", *(value.numpy() for value in inputs))
            subprocess.run([sys.executable, "-c", ALONE, folder], check=True, cwd="/")
            with np.load(Path(folder) / "outputs.npz") as outputs:
                return {name: torch.from_numpy(outputs[name]) for name in outputs.files}


class Matrix:
    """Exports modules with backbones.

    Args:
        folder: Folder for the programs.
        repeat: Whether to convert a program again if one with an equal graph was exported before.

    Attributes:
        converted: Number of programs that were written and checked.
    """

    def __init__(self, folder: Path, repeat: bool = False) -> None:
        self.folder, self.repeat = folder, repeat
        self.converted = 0
        self._exported: set[str] = set()

    def cell(self, row: Row, column: str) -> str:
        """Return `yes`, or why a module is refused with a backbone (`refused: ...`) or a program fails (`fails: ...`).

        A refusal is an error of this project with one line.
        """
        with small_networks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = self._module(row.case, BACKBONES[column])
                program = ExportedEpisode(module) if row.part else ExportedModule(module)
            except Exception as error:
                kind = "refused" if is_own_error(error) and "\n" not in str(error) else "fails"
                return f"{kind}: {error}"
            try:
                return self._export(module, program)
            except Exception as error:
                return f"fails: {' '.join(str(error).split())[:300]}"

    def _module(self, case: Case, backbone: str) -> BaseModule:
        """Return the module after a training step."""
        options = copy.deepcopy(dict(case.options)) | {"backbone": backbone}
        options |= {"teacher": backbone} if "teacher" in options else {}
        path = self.folder / f"{backbone.replace('/', '_')}.ckpt"
        if case.pretrained:
            if not path.is_file():
                self._fit(SupervisedModule(backbone=backbone), Images()).save_checkpoint(path)
            options[case.weights_argument] = str(path)
        module = case.cls(**options)
        self._fit(module, case.data(), case.callbacks())
        for detector in (part for part in module.modules() if isinstance(part, Detector)):
            spread(detector)
        return module.eval()

    def _fit(self, module: BaseModule, data: L.LightningDataModule, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
        L.seed_everything(0, verbose=False)
        limits = {"max_steps": 1, "limit_val_batches": 0, "logger": False, "enable_checkpointing": False}
        trainer = L.Trainer(**QUIET | limits, callbacks=[*callbacks])
        trainer.fit(module, data)
        return trainer

    def _export(self, module: BaseModule, program: ExportedModule) -> str:
        (image, *_), extras = program.example(3), module_extras(module)
        if not isinstance(program, ExportedEpisode) and program.name in program.shapes:
            with torch.no_grad():
                forward = module.embed if program.name == "embedding" else extras.fixed_outputs or module
                torch.testing.assert_close(program(image)[program.name], forward(image), atol=1e-4, rtol=1e-4)
        graph = program.trace.graph_module.code + str([value.shape for value in program.state_dict().values()])
        if graph not in self._exported or self.repeat:
            export_program(program, self.folder / "model.pt2")
            with patch.object(export, "OnnxProgram", ProgramAlone):
                export_onnx(program, self.folder / "model.onnx")
            self._exported.add(graph)
            self.converted += 1
        return "yes"


@contextmanager
def small_networks() -> Iterator[None]:
    """Let images have `SIDE` pixels, and timm build DINOv3 narrower and with few blocks."""
    import timm

    build = timm.create_model
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 4}

    def create_model(name: str, **options: Any) -> Any:
        return build(name, **options, **(sizes if "dinov3" in name else {}))

    sided = [(cls.__init__, (*(cls.__init__.__defaults__ or ())[:-1], SIDE)) for cls in (Images, Episodes)]
    with ExitStack() as stack:
        stack.enter_context(patch.object(timm, "create_model", create_model))
        for function, defaults in sided:
            stack.enter_context(patch.object(function, "__defaults__", defaults))
        yield


def read_cells() -> dict[str, list[str]]:
    """Return the cells of the page by row, as `Matrix.cell` returns them; `-` for cells not exported yet."""
    if not PATH.is_file():
        return {}
    text = PATH.read_text(encoding="utf-8")
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    cells: dict[str, list[str]] = {}
    for name, *values in (re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("| `")):
        parts = [re.fullmatch(r"(\w+|-)(?: \((\d+)\))?", value) for value in values]
        cells[name.strip("`")] = [f"{p[1]}: {notes[p[2]]}" if p[2] else p[1] for p in parts if p is not None]
    return cells


def page(cells: Mapping[str, Sequence[str]]) -> str:
    """Return the text of `docs/exports.md`."""
    kinds = Counter(cell.partition(":")[0] for row in cells.values() for cell in row)
    green = f"{kinds['yes']} of {kinds.total()} cells are green, {kinds['refused']} are refused, {kinds['fails']} fail"
    summary = green + (f", and {kinds['-']} (-) have not been exported." if kinds["-"] else ".")
    notes: list[str] = []
    lines = [summary, "", f"| module | {' | '.join(BACKBONES)} |", f"|---|{'---|' * len(BACKBONES)}"]
    for name, row in cells.items():
        shown = []
        for kind, _, note in (cell.partition(": ") for cell in row):
            if note and note not in notes:
                notes.append(note)
            shown.append(f"{kind} ({notes.index(note) + 1})" if note else kind)
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return HEAD + "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> None:
    """Export the named rows, or all cells that the page lacks or that fail, and write the page after each cell.

    Each module and each backbone comes early: the order of cells is diagonal.
    """
    listed, before = rows(), read_cells()
    if unknown := set(names) - {row.name for row in listed}:
        raise SystemExit(f"no rows {sorted(unknown)}: choose from {[row.name for row in listed]}")
    cells = {row.name: before.get(row.name, ["-"] * len(BACKBONES)) for row in listed}
    for name in names:
        cells[name] = ["-"] * len(BACKBONES)
    columns = [*BACKBONES]
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder))
        for shift, (number, row) in itertools.product(range(len(columns)), enumerate(listed)):
            column = (number + shift) % len(columns)
            if cells[row.name][column].partition(":")[0] in ("-", "fails"):
                cells[row.name][column] = matrix.cell(row, columns[column])
                PATH.write_text(page(cells), encoding="utf-8")
                print(f"{row.name}, {columns[column]}: {cells[row.name][column]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
