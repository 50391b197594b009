"""Compare the metrics of a checkpoint's module and its exported ONNX program on a split of the run's data.

lit-cv export best --output out
python scripts/compare_exported.py best out/model.onnx --split test --data.root $LIT_CV_DATA/BCCD
"""

import argparse
import sys
from pathlib import Path

from lit_cv.running.arguments import prepare_run
from lit_cv.running.invocation import invocation
from lit_cv.running.program_scores import ProgramScores, ProgramScoresCLI

_TOLERANCE = 1e-3


def compare(checkpoint: str, program: Path, split: str, options: list[str]) -> dict[str, tuple[float, float]]:
    """Return each metric of the module and of the program.

    Args:
        checkpoint: Checkpoint, as `--ckpt_path` takes it.
        program: ONNX program.
        split: `validate` or `test`.
        options: Further options of `lit-cv test`.
    """
    args = [split, *options, "--ckpt_path", checkpoint]
    with invocation(args):
        cli = ProgramScoresCLI(ProgramScores({"program": program}), *prepare_run(args))
    logged = cli.trainer.callback_metrics
    prefix = "val" if split == "validate" else "test"
    scores = cli.scores.scores["program"]
    return {name: (float(logged[f"{prefix}_{name}"]), value) for name, value in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("program", type=Path)
    parser.add_argument("--split", choices=("validate", "test"), default="test")
    options, rest = parser.parse_known_args()
    metrics = compare(options.checkpoint, options.program, options.split, rest)
    print(f"{'metric':24}{'module':>10}{'program':>10}")
    for name, (expected, actual) in metrics.items():
        print(f"{name:24}{expected:10.5f}{actual:10.5f}")
    if any(abs(expected - actual) > _TOLERANCE for expected, actual in metrics.values()):
        sys.exit(f"a metric differs by more than {_TOLERANCE}")


if __name__ == "__main__":
    main()
