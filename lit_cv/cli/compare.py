"""The verb `compare`: approaches against each other, and a report that says which to choose."""

import math
from argparse import Namespace
from typing import Any

from lit_cv.cli.own_options import OwnParser, command_line, output_folder
from lit_cv.plain_values import load_yaml

__all__ = ["run_compare"]

DEFAULT_OUTPUT = "lightning_logs/compare"


def _parser() -> OwnParser:
    parser = OwnParser(
        "compare",
        "Measure learning approaches against each other on the same images, over numbers of labels and seeds, and\n"
        "report which to choose. --data, --data.NAME and --trainer.NAME hold for all runs. The same command continues\n"
        "what was stopped.",
        "  lit-cv compare\n"
        "  lit-cv compare --comparison fashion_mnist --data.root $LIT_CV_DATA --labels 10 50 250 --seeds 0 1\n"
        "  lit-cv compare --redraw --cost_per_label 0.05",
    )
    parser.add_argument("--comparison", default="digits", help="what is compared: a shipped comparison (digits, "
                        "fashion_mnist) or a YAML file like those (digits)")  # fmt: skip
    parser.add_argument("--approaches", nargs="+", metavar="NAME", help="those to take (all)")
    parser.add_argument("--labels", nargs="+", metavar="N", help="labels of each class, a share such as 0.01, or all")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="seeds of labels, weights and order")
    parser.add_argument("--steps", type=int, help="optimizer steps of training with labels")
    parser.add_argument("--pretraining_steps", type=int, help="optimizer steps of pretraining without labels")
    parser.add_argument("--minutes", type=float, help="minutes of training of each approach, pretraining included, in "
                        "place of steps")  # fmt: skip
    parser.add_argument("--pretraining_seeds", choices=("one", "each"), help="one pretraining for all seeds, or one "
                        "for each (one)")  # fmt: skip
    parser.add_argument("--weights", help="weights for `transfer`: a checkpoint, or DEFAULT of torchvision")
    parser.add_argument("--backbone", help="network of these weights where they do not tell")
    parser.add_argument("--cost_per_label", type=float, help="cost of one label, for the report")
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (lightning_logs/compare)")
    parser.add_argument("--redraw", action="store_true", help="make the report again from compare.csv, and do no more")
    parser.add_argument("--escape_formulas", action="store_true", help="put an apostrophe before names in the tables "
                        "that a spreadsheet would compute (they begin with = + - @)")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="list the runs and how long they take, and do nothing")
    return parser


def run_compare(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    own, rest = _parser().parse_before_fit(args)
    if own.cost_per_label is not None and not 0 < own.cost_per_label < math.inf:
        raise ValueError(f"--cost_per_label {own.cost_per_label} was given: it is above 0.")
    folder = output_folder(own.output, DEFAULT_OUTPUT)
    if own.redraw:
        from lit_cv.studies.comparison_report import write_report

        print(write_report(folder, own.cost_per_label))
        return
    comparison = _read(own, rest)
    from lit_cv.studies.comparison import ComparisonRun
    from lit_cv.studies.comparison_report import write_report

    running = ComparisonRun(comparison, folder, command_line("compare", args), own.escape_formulas)
    if own.dry_run:
        print(running.study.describe(running.time_steps()))
        return
    running.run()
    print(write_report(folder, own.cost_per_label))


def _read(own: Namespace, rest: list[str]) -> Any:
    from lit_cv.studies.comparison_files import read_comparison

    data: str | None = None
    given: dict[str, dict[str, Any]] = {"data": {}, "trainer": {}}
    tokens = iter(rest)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--"):
            raise SystemExit(f"lit-cv: error: there is no argument {token!r}: options start with --.")
        value = value if equals else next(tokens, "")
        section, _, key = name.partition(".")
        if name == "data":
            data = value
        elif section in given and key and "." not in key:
            given[section][key] = load_yaml(value, f"--{name}")
        else:
            raise SystemExit(f"lit-cv: error: --{name} is not for compare: it belongs into a file (--comparison).")
    comparison = read_comparison(
        own.comparison, approaches=own.approaches, labels=own.labels, seeds=own.seeds, steps=own.steps,
        minutes=own.minutes, pretraining_seeds=own.pretraining_seeds, weights=own.weights, backbone=own.backbone,
        data=data, data_args=given["data"], trainer=given["trainer"] or None,
    )  # fmt: skip
    return comparison if own.pretraining_steps is None else comparison.with_steps(own.pretraining_steps)
