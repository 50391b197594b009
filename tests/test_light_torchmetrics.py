import subprocess
import sys
from pathlib import Path

import pytest

from lit_cv.light_torchmetrics import _Deferred


def test_deferred_module_loads_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    placeholder = _Deferred("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", placeholder)
    assert not hasattr(placeholder, "__file__")
    assert hasattr(placeholder, "hamming")
    assert sys.modules["colorsys"] is placeholder
    assert placeholder.rgb_to_yiq(0, 0, 0) == (0, 0, 0)
    assert sys.modules["colorsys"] is not placeholder


@pytest.mark.slow
def test_fit_imports_neither_sklearn_nor_scipy_stats(in_tmp: Path) -> None:
    code = (
        "import sys; from lit_cv.cli import main; main(['fit', '--config', 'supervised', '--trainer.max_steps', '1']);"
        "print([m for m in ('scipy.signal', 'scipy.stats', 'sklearn', 'onnx', 'pandas') if m in sys.modules]);"
        "import scipy.signal; print(scipy.signal.convolve([1, 2], [1, 1]), scipy.signal.__file__ is not None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["[]", "[1 3 2] True"]
