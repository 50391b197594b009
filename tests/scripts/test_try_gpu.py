"""`scripts/try_gpu.py` runs all parts on the CPU, and reports items that crash or hang."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_tiny_form_passes(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    # The budget allows for a busy machine.
    command = [sys.executable, str(SCRIPTS / "try_gpu.py"), "--tiny", "--minutes", "60", "--out", str(out)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    results: dict[str, Any] = json.loads(out.read_text())
    unexpected = [row for row in results["rows"] if row["status"] != "PASS" and row["item"] != "kornia"]
    assert not unexpected
    assert ended.returncode == 0, ended.stderr
    assert {row["part"] for row in results["rows"]} == set(results["seconds"])
    assert len(results["seconds"]) == 9
    assert results["environment"]["torch"]
    assert "| **resume** | 1 items | 1 PASS |" in ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_worker_survives_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from gpu_parts.setting import Setting  # type: ignore[import-not-found]
    from gpu_parts.worker import Worker  # type: ignore[import-not-found]

    worker = Worker(Setting("cpu", True, str(tmp_path)))
    try:
        answers = {
            name: worker.ask("tests.scripts.faults", name, seconds=2 if name == "hang" else 60)
            for name in ("fail", "skip", "crash", "hang", "succeed")
        }
    finally:
        worker.stop()
    assert {name: answer[0] for name, answer in answers.items()} == {
        "fail": "FAIL", "skip": "SKIPPED", "crash": "FAIL", "hang": "FAIL", "succeed": "PASS",
    }  # fmt: skip
    assert answers["fail"][1]["detail"] == "ValueError: of the test"
    assert answers["skip"][1] == {"detail": "not here"}
    assert "exit code -11" in answers["crash"][1]["detail"]
    assert answers["hang"][1] == {"detail": "no result within 2 s", "timeout": True}
    assert answers["succeed"][1]["device"] == "cpu"
