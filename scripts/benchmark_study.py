"""Measure the overhead of `lit-cv kfold` and `lit-cv compare` over the fits that they contain.

Each study runs once, and each of its fits is timed, from parsing its options to its last figure or checkpoint. The rest
is the overhead of the study: evaluation, predictions, tables, figures and the report. (Compared with separate fits, the
ratio varied from 0.86 to 1.26, since fits vary by more than this overhead.) Times are CPU times, which other load on
the machine hardly affects.

    python scripts/benchmark_study.py --epochs 30 --steps 600
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from lit_cv.cli import main as lit_cv
from lit_cv.studies import comparison, kfold
from lit_cv.studies.study_run import StudyRun

QUIET = ["--trainer.accelerator=cpu"]


@contextlib.contextmanager
def timed_fits() -> Iterator[list[float]]:
    """Yield a list that collects the CPU seconds of each fit within a study."""
    seconds: list[float] = []

    class Timed(StudyRun):
        def __init__(self, *args: Any, only_build: bool = False, **kwargs: Any) -> None:
            start = time.process_time()
            super().__init__(*args, only_build=only_build, **kwargs)
            if not only_build:
                seconds.append(time.process_time() - start)

    for module in (kfold, comparison):
        module.StudyRun = Timed  # type: ignore[attr-defined]
    try:
        yield seconds
    finally:
        for module in (kfold, comparison):
            module.StudyRun = StudyRun  # type: ignore[attr-defined]


def run(*command: str) -> float:
    """Return the CPU seconds of a command."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lit_cv([*command, *QUIET])
    return time.process_time() - start


def main() -> None:
    """Run both studies and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each fold")
    parser.add_argument("--steps", type=int, default=600, help="steps of each compared run")
    args = parser.parse_args()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run("fit", "--config", "supervised", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false")  # imports
        studies = {
            "kfold": ["--config", "supervised", "--folds", "5", f"--trainer.max_epochs={args.epochs}"],
            "compare": ["--approaches", "supervised", "--labels", "5", "all", "--steps", str(args.steps)],
        }
        for verb, options in studies.items():
            with timed_fits() as fits:
                total = run(verb, *options, "--output", verb)
            print(f"{verb}: {total:.1f} s, its {len(fits)} fits {sum(fits):.1f} s: {total / sum(fits):.3f}", flush=True)
        os.chdir(here)


if __name__ == "__main__":
    main()
