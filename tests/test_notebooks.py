"""What training prints and draws in a notebook."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lit_cv.notebooks import in_notebook

CELLS = (
    "from datamodules import DigitsDataModule\nDigitsDataModule().show_batch(n=4)",
    "from lit_cv.cli import main\n"
    "options = ['--config', 'fine_tune', '--data', 'DigitsDataModule', '--model.backbone', 'conv4']\n"
    "cli = main(['fit', *options, '--trainer.max_epochs', '2'])",
    "cli.trainer.test(cli.model, cli.datamodule)[0]['test_acc'] > 0.2",
)


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for shell, expected in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=object()), True)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))  # type: ignore[arg-type]
        assert in_notebook() is expected


@pytest.mark.slow
def test_cells_show_plain_text_and_figures(in_tmp: Any) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", coalesce_streams=True).execute()
    assert "\\u001b" not in nbformat.writes(notebook)
    figure, training, test = (cell.outputs for cell in notebook.cells)
    assert figure[0].data["image/png"]
    assert {output.get("name") for output in training if output.output_type == "stream"} == {"stdout"}
    (text,) = (output.text for output in training if output.output_type == "stream")
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    bars = [output for output in training if output.output_type == "display_data"]
    assert len(bars) == 1
    assert not any(bars[0].data.values())  # removed
    assert any("test_acc" in output.get("text", "") for output in test)
    assert test[-1].data["text/plain"] == "True"
