"""The notebooks of the course are executed, small, free of traces of a machine, and part of the site."""

import base64
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
COURSE = ROOT / "docs" / "course"
CHAPTERS = sorted(path.stem for path in COURSE.glob("*.ipynb"))
CHEAPEST = "02_supervised"
MAX_BYTES = 40_000  # of a figure
MAX_FIGURES = 3


@pytest.fixture(params=CHAPTERS)
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A notebook, as JSON."""
    return dict(json.loads((COURSE / f"{request.param}.ipynb").read_text(encoding="utf-8")))


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def figures(notebook: dict[str, Any]) -> list[bytes]:
    return [
        base64.b64decode(content)
        for output in outputs(notebook)
        for kind, content in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


def test_notebook_is_valid(notebook: dict[str, Any]) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook)
    assert notebook["nbformat"] == 4


def test_notebook_was_executed_in_order(notebook: dict[str, Any]) -> None:
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for output in outputs(notebook)}
    assert "error" not in kinds
    assert not any(output.get("name") == "stderr" for output in outputs(notebook))


def test_notebook_has_no_traces_of_machine(notebook: dict[str, Any]) -> None:
    text = json.dumps(notebook)
    assert "\\u001b" not in text
    assert re.findall(r"(?<![\w.])/(?:tmp|work|home|root|Users)/\S*", text) == []
    assert re.findall(r"epoch +\d+/\d+ [^\\]*  [\d.:]+ (?:s|min|h)\b", text) == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert [cell["metadata"] for cell in notebook["cells"] if cell["metadata"]] == []


def test_figures_are_small(notebook: dict[str, Any]) -> None:
    images = figures(notebook)
    assert 1 <= len(images) <= MAX_FIGURES
    assert [len(image) for image in images if len(image) > MAX_BYTES] == []
    for image in images:
        Image.open(io.BytesIO(image)).verify()


def test_chapter_has_formula_exercise_and_links(notebook: dict[str, Any]) -> None:
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert texts[0].startswith("# ")
    assert "$$" in "\n".join(texts)
    assert texts[-1].startswith("## Exercise")
    links = [link for text in texts for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) if "://" not in link]
    assert any(link.startswith("../") for link in links)
    assert [link for link in links if not (COURSE / link).exists()] == []


def test_all_chapters_are_listed() -> None:
    linked = re.findall(r"\]\((\w+)\.ipynb\)", (COURSE / "README.md").read_text(encoding="utf-8"))
    listed = re.findall(r"- course/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert linked == CHAPTERS
    assert listed == ["README", *CHAPTERS]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("execute_course", ROOT / "scripts" / "execute_course.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def script() -> Any:
    """The script that executes the notebooks."""
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name)
    return load_script()


@pytest.mark.slow
def test_cheapest_chapter_runs(script: Any) -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(COURSE / f"{CHEAPEST}.ipynb", as_version=4)
    before = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    script.execute(notebook)
    assert [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"] == before
