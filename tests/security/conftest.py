"""A trained run, of which tests may change a copy."""

import shutil
from pathlib import Path

import pytest

from lit_cv.cli import main
from tests.security.hostile import QUICK


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the recipe `supervised`."""
    root = tmp_path_factory.mktemp("trained")
    main(["fit", "--config=supervised", *QUICK, f"--trainer.default_root_dir={root}", "--early_stopping.patience=3"])
    return root / "lightning_logs" / "version_0"


@pytest.fixture
def fitted(trained: Path, in_tmp: Path) -> Path:
    """A working directory with a copy of that run."""
    shutil.copytree(trained, in_tmp / "lightning_logs" / "version_0")
    return in_tmp
