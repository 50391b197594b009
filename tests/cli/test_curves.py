"""`curves`: several runs in one figure."""

from pathlib import Path

import numpy as np
import pytest

from lit_cv.cli import main
from lit_cv.figures import History
from lit_cv.figures.overlay import overlay_figure

pytestmark = pytest.mark.draws


def write(folder: Path, values: list[float], metric: str = "val_acc") -> Path:
    folder.mkdir(parents=True)
    rows = [f"{epoch},{10 * epoch + 9},{1 / (epoch + 1)},{value}" for epoch, value in enumerate(values)]
    (folder / "metrics.csv").write_text("\n".join([f"epoch,step,train_loss,{metric}", *rows, ""]))
    return folder


def test_curves_match_tables(tmp_path: Path) -> None:
    runs = {name: History.read(write(tmp_path / name, [0.1, 0.5 + k / 10, 0.9]) / "metrics.csv")
            for k, name in enumerate(("a", "b"))}  # fmt: skip
    loss, accuracy = overlay_figure(runs).axes
    assert (loss.get_title("left"), accuracy.get_title("left")) == ("train_loss", "val_acc")
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[0.1, 0.5, 0.9], [0.1, 0.6, 0.9]]
    assert accuracy.lines[0].get_xdata().tolist() == [1.0, 2.0, 3.0]
    over_steps = overlay_figure(runs, ["val_acc"], "step").axes[0]
    assert np.array_equal(over_steps.lines[0].get_xdata(), [10, 20, 30])


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_ticks_are_integer_epochs(tmp_path: Path, epochs: int) -> None:
    figure = overlay_figure({"a": History.read(write(tmp_path / "a", [0.5] * epochs) / "metrics.csv")})
    for axes in figure.axes:
        assert axes.get_xticks()[axes.get_xticks() <= epochs].tolist() == list(range(epochs + 1))


def test_curves_verb(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write(in_tmp / "logs" / name / "run", [0.1, 0.5])) for name in ("a", "b")]
    main(["curves", *runs, "--dry_run"])
    assert "a/run: " in capsys.readouterr().out
    assert not (in_tmp / "curves.png").exists()
    main(["curves", *runs, "--metrics", "val_acc", "--names", "first", "second"])
    assert (in_tmp / "curves.png").is_file()
    with pytest.raises(FileNotFoundError, match="nowhere is not a run"):
        main(["curves", "nowhere"])
    for name in ("c9", "c10"):
        write(in_tmp / "more" / name, [0.1, 0.5])
    (in_tmp / "more" / "failed").mkdir()
    (in_tmp / "more" / "failed" / "metrics.csv").write_text("epoch,step\n")
    capsys.readouterr()
    main(["curves", "more", *runs, "--dry_run"])
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        "more/c9", "more/c10", "more/failed", "a/run", "b/run",
    ]  # fmt: skip
    main(["curves", "more"])
    assert "2 runs drawn" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no run has logged 'val_ac': did you mean 'val_acc'"):
        main(["curves", *runs, "--metrics", "val_ac"])
    with pytest.raises(ValueError, match="1 names for 2 runs"):
        main(["curves", *runs, "--names", "first"])
    with pytest.raises(SystemExit, match="unknown option --metric: did you mean '--metrics'"):
        main(["curves", runs[0], "--metric", "val_acc"])
