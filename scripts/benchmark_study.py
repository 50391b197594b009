"""What `lit-cv kfold` and `lit-cv compare` cost beyond the plain fits that they contain.

Both are run in one process beside the same fits as `lit-cv fit` does them: as many images, steps and pictures. Times
are those of the processor, so that a busy machine does not count; the start of Python does not count either, which
separate fits would pay each time.

python scripts/benchmark_study.py --epochs 15 --steps 500
"""

import argparse
import contextlib
import io
import os
import tempfile
import time

from lit_cv.cli import main as lit_cv

QUIET = [
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
]  # fmt: skip


def seconds(*commands: list[str]) -> float:
    """Return the processor's seconds that some commands take together."""
    start = time.process_time()
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            lit_cv(command)
    return time.process_time() - start


def main() -> None:
    """Run both, twice, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each fold")
    parser.add_argument("--steps", type=int, default=500, help="steps of each compared run")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    fit = ["fit", "--config", "supervised", *QUIET]
    fold = [*fit, f"--trainer.max_epochs={args.epochs}", "--data.val_fraction=0.3333"]
    lean = [*fit, f"--trainer.max_steps={args.steps}", "--trainer.max_epochs=10000", "--data.val_fraction=0",
            "--trainer.limit_val_batches=0"]  # fmt: skip
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seconds([*fit, "--trainer.max_epochs=1"])  # imports
        for repeat in range(args.repeats):
            plain = seconds(fold, fold, fold)
            kfold = [
                "kfold",
                "--config",
                "supervised",
                "--folds",
                "3",
                f"--trainer.max_epochs={args.epochs}",
                QUIET[-1],
            ]
            study = seconds([*kfold, "--output", f"kfold{repeat}"])
            print(f"kfold: {study:.1f} s, three plain fits {plain:.1f} s: {study / plain:.3f}", flush=True)
            plain = seconds(lean, lean)
            compare = [
                "compare",
                "--approaches",
                "supervised",
                "--labels",
                "all",
                "--steps",
                str(args.steps),
                QUIET[-1],
            ]
            study = seconds([*compare, "--output", f"compare{repeat}"])
            print(f"compare: {study:.1f} s, two plain fits {plain:.1f} s: {study / plain:.3f}", flush=True)
        os.chdir(here)


if __name__ == "__main__":
    main()
