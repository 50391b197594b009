"""`python -m lit_cv` in the folder of a user's project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.hostile import EVIL, MARKER, QUICK

ROOT = Path(__file__).parent.parent
SITE = f"""
import importlib.util
import sys
from importlib.machinery import PathFinder

class Installed:
    def find_spec(name, path=None, target=None):
        if name in ("lit_cv", "datamodules"):
            return importlib.util.spec_from_file_location(name, f"{ROOT}/{{name}}/__init__.py")

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Installed)
"""
CUSTOM = '''
from lit_cv import SupervisedModule

class CustomModule(SupervisedModule):
    """A module of the project."""
'''


@pytest.mark.slow
def test_project_with_datamodules_folder(in_tmp: Path) -> None:
    site, project = in_tmp / "site", in_tmp / "project"
    (project / "datamodules").mkdir(parents=True)
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)  # like an editable installation: searched after the import path
    (project / "datamodules" / "__init__.py").write_text(EVIL)
    (project / "custom.py").write_text(CUSTOM)
    fit = ["fit", "--model", "CustomModule", "--model.backbone", "conv4", "--data", "DigitsDataModule", *QUICK]
    ran = subprocess.run(
        [sys.executable, "-m", "lit_cv", *fit], cwd=project, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert not (project / MARKER).exists()
    assert (project / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt").is_file()
