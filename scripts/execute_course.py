"""Execute the notebooks of the course from top to bottom, and write their outputs into them.

    pip install -e ".[course]"
    python scripts/execute_course.py                       # all chapters
    python scripts/execute_course.py 02_supervised         # some

Each notebook runs in an empty folder of its own. Times, versions and paths of this machine are dropped, figures become
PNG files of 256 colors.
"""

import argparse
import base64
import io
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

COURSE = Path(__file__).parent.parent / "docs" / "course"
TIMEOUT = 900  # seconds for a cell
EPOCH_TIME = re.compile(r"^(epoch +\d+/\d+ .*?)  [\d.:]+ (?:s|min|h)(?=  |$)", re.MULTILINE)


def execute(notebook: Any) -> None:
    """Run all cells in an empty folder, and store their outputs."""
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute()
        clean(notebook, folder)


def clean(notebook: Any, folder: str) -> None:
    """Drop what depends on the machine, and make figures small."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]
            for output in cell.outputs:
                _clean_output(output, folder)


def _is_shown(output: Any) -> bool:
    """Return whether an output shows anything; a removed progress bar does not."""
    return output.output_type in ("stream", "error") or any(output.data.values())


def _clean_output(output: Any, folder: str) -> None:
    if output.output_type == "stream":
        output.text = EPOCH_TIME.sub(r"\1", _relative(output.text, folder))
        return
    if output.output_type == "error":
        return
    output.metadata = nbformat.from_dict({})
    for kind, content in output.data.items():
        if kind == "image/png":
            output.data[kind] = _small_png(content)
        elif kind.startswith("text/"):
            output.data[kind] = re.sub(r" at 0x[0-9a-f]+", "", _relative(content, folder))


def _relative(text: str, folder: str) -> str:
    return re.sub(r"\S*/site-packages/", "", text.replace(f"{Path(folder).resolve()}/", "").replace(f"{folder}/", ""))


def _small_png(content: str) -> str:
    image, buffer = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chapters = sorted(path.stem for path in COURSE.glob("*.ipynb"))
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help=f"of {', '.join(chapters)} (default: all)")
    chosen = parser.parse_args().chapters
    if unknown := [name for name in chosen if name not in chapters]:
        parser.error(f"there is no chapter {unknown[0]}: choose from {', '.join(chapters)}")
    for name in chosen or chapters:
        path, start = COURSE / f"{name}.ipynb", time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        nbformat.write(notebook, path)
        print(f"{name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
