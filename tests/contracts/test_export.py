"""Modules with backbones of each family: exported programs match, other combinations are refused as the page says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.running.export import ExportedModule
from tests.contracts import export_table
from tests.contracts.export_table import BACKBONES, Matrix, Row, page, read_cells, rows

ROWS = rows()
COLUMNS = [*BACKBONES]
SPREAD = [(row, COLUMNS[number % len(COLUMNS)]) for number, row in enumerate(ROWS)]


def test_page_has_a_cell_for_each_module_and_backbone() -> None:
    cells = read_cells()
    assert [*cells] == [row.name for row in ROWS], "run: python -m tests.contracts.export_table"
    assert {len(row) for row in cells.values()} == {len(BACKBONES)}
    assert {cell.partition(":")[0] for row in cells.values() for cell in row} <= {"yes", "refused", "-"}
    assert export_table.PATH.read_text(encoding="utf-8") == page(cells)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column"), SPREAD, ids=[f"{row.name}, {column}" for row, column in SPREAD])
def test_cells_of_page(row: Row, column: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("timm")
    matrix = Matrix(tmp_path)
    cell = matrix.cell(row, column)
    assert cell.partition(":")[0] in ("yes", "refused")
    assert read_cells()[row.name][COLUMNS.index(column)] in (cell, "-")
    assert matrix.converted == (cell == "yes")


@pytest.mark.slow
def test_differing_program_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    forward = ExportedModule.forward

    def forward_changed(self: ExportedModule, image: Any) -> Any:
        outputs = forward(self, image)
        return {name: value + 0.01 * torch.compiler.is_compiling() for name, value in outputs.items()}

    monkeypatch.setattr(ExportedModule, "forward", forward_changed)
    row = next(row for row in ROWS if row.name == "SupervisedModule")
    assert Matrix(tmp_path).cell(row, "ResNet").startswith("fails: model.pt2: logits differs by 0.01")
