"""Fits that start at the same time use separate folders."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_cv.cli import main
from lit_cv.running import training
from lit_cv.running.runs import claim_run
from tests.cli.test_mistakes import QUICK

FIT = [
    "fit", "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule",
    "--trainer.max_steps", "1", *QUICK,
]  # fmt: skip


def _fit_together(seed: int, ready: Any) -> None:
    make_run_folder = training.make_run_folder

    def together(logs: Path) -> Path:
        ready.wait()  # until all processes have built model and data
        return make_run_folder(logs)

    training.make_run_folder = together
    main([*FIT, f"--seed_everything={seed}"])


@pytest.mark.slow
def test_concurrent_fits_use_separate_folders(in_tmp: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(4)
    fits = [fork.Process(target=_fit_together, args=(seed, ready)) for seed in range(4)]
    for process in fits:
        process.start()
    for process in fits:
        process.join()
        assert process.exitcode == 0
    runs = sorted(Path("lightning_logs").iterdir())
    assert [run.name for run in runs] == [f"version_{number}" for number in range(4)]
    assert {yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] for run in runs} == {0, 1, 2, 3}
    assert all((run / "checkpoints" / "last.ckpt").is_file() for run in runs)
    assert all(len((run / "metrics.csv").read_text().splitlines()) == 2 for run in runs)


@pytest.mark.parametrize("logger", ["false", "CSVLogger"])
def test_checkpoint_folder_is_locked_without_logger(in_tmp: Path, logger: str) -> None:
    options = ["--trainer.logger", logger]
    if logger == "CSVLogger":
        options += ["--trainer.logger.save_dir", ".", "--trainer.logger.version", "mine"]
    folder = Path("lightning_logs/mine" if logger == "CSVLogger" else ".")
    folder.mkdir(parents=True, exist_ok=True)
    other = claim_run(folder)
    with pytest.raises(ValueError, match="use another --trainer"):
        main([*FIT, *options])
    other.release()
    main([*FIT, *options])
    assert (folder / "checkpoints" / "last.ckpt").is_file()
