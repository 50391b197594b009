"""What `lit-cv kfold` and `lit-cv compare` cost beyond the fits that they contain.

Each is run once, and the fits within are timed as they go: a fit as `lit-cv fit` does it, from the parsing of its
options to its last picture or checkpoint. The rest is the study's own: judging the models, predictions, tables,
pictures, the report. (Beside separate fits, run in turn, the same came out anywhere from 0.86 to 1.26: fits differ from
one another by more than the study takes.) Times are those of the processor, so that a busy machine does not count.

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
    """Collect the processor's seconds of each fit within a study."""
    found: list[float] = []

    class Timed(StudyRun):
        def __init__(self, *args: Any, only_build: bool = False, **kwargs: Any) -> None:
            start = time.process_time()
            super().__init__(*args, only_build=only_build, **kwargs)
            if not only_build:
                found.append(time.process_time() - start)

    for module in (kfold, comparison):
        module.StudyRun = Timed  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        for module in (kfold, comparison):
            module.StudyRun = StudyRun  # type: ignore[attr-defined]


def run(*command: str) -> float:
    """Return the processor's seconds that a command takes."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lit_cv([*command, *QUIET])
    return time.process_time() - start


def main() -> None:
    """Run both and print the ratios."""
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
            print(
                f"{verb}: {total:.1f} s, {len(fits)} fits in it {sum(fits):.1f} s: {total / sum(fits):.3f}", flush=True
            )
        os.chdir(here)


if __name__ == "__main__":
    main()
