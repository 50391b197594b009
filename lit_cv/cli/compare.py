"""The verb `compare`: measure learning approaches against each other, and report which to choose."""

import math
from argparse import Namespace
from typing import Any

from lit_cv.cli.verb_options import VerbParser, command_line, output_folder
from lit_cv.light_torchmetrics import import_torchmetrics
from lit_cv.plain_values import load_yaml
from lit_cv.running.recipes import comparison_names

__all__ = ["run_compare"]

DEFAULT_OUTPUT = "lightning_logs/compare"


def _parser() -> VerbParser:
    parser = VerbParser(
        "compare",
        "Compare learning approaches on the same images, over label counts and seeds, and report which to choose.\n"
        "--data, --data.NAME and --trainer.NAME apply to all runs. Run the same command again to resume.",
        "  lit-cv compare\n"
        "  lit-cv compare --comparison fashion_mnist --data.root $LIT_CV_DATA --labels 10 50 250 --seeds 0 1\n"
        "  lit-cv compare --redraw --cost_per_label 0.05",
    )
    parser.add_argument("--comparison", default="digits", help=f"shipped comparison ({', '.join(comparison_names())}) "
                        "or a YAML file of the same form (default: digits)")  # fmt: skip
    parser.add_argument("--approaches", nargs="+", metavar="NAME", help="approaches to run (default: all)")
    parser.add_argument("--labels", nargs="+", metavar="N", help="labels per class, a fraction such as 0.01, or all")
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="seeds of label choice, weights and data order"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps of training with labels")
    parser.add_argument("--pretraining_steps", type=int, help="optimizer steps of stages that also learn from images "
                        "without labels")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="minutes of training per approach, pretraining included, instead "
                        "of steps")  # fmt: skip
    parser.add_argument("--pretraining_seeds", choices=("one", "each"), help="one pretraining for all seeds, or one "
                        "for each (default: one)")  # fmt: skip
    parser.add_argument("--weights", help="weights for `transfer`: a checkpoint, or DEFAULT for torchvision's")
    parser.add_argument("--backbone", help="backbone of these weights, if they do not name it")
    parser.add_argument("--cost_per_label", type=float, help="cost of one label, for the report")
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="output folder (default: lightning_logs/compare)")
    parser.add_argument("--redraw", action="store_true", help="only write the report again, from compare.csv")
    parser.add_argument("--escape_formulas", action="store_true", help="put an apostrophe before names in the tables "
                        "that a spreadsheet would evaluate (they begin with = + - @)")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="list the runs and their expected duration, then exit")
    return parser


def run_compare(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    options, fit_args = _parser().parse_before_fit(args)
    if options.cost_per_label is not None and not 0 < options.cost_per_label < math.inf:
        raise ValueError(f"--cost_per_label {options.cost_per_label}: give a number above 0.")
    folder = output_folder(options.output, DEFAULT_OUTPUT)
    import_torchmetrics()
    if options.redraw:
        from lit_cv.studies.comparison_report import write_report

        print(write_report(folder, options.cost_per_label))
        return
    comparison = _read(options, fit_args)
    from lit_cv.studies.comparison import ComparisonRun
    from lit_cv.studies.comparison_report import write_report

    run = ComparisonRun(comparison, folder, command_line("compare", args), options.escape_formulas)
    if options.dry_run:
        print(run.study.describe(run.time_steps()))
        return
    run.run()
    print(write_report(folder, options.cost_per_label))


def _read(options: Namespace, fit_args: list[str]) -> Any:
    from lit_cv.studies.comparison_files import read_comparison

    data: str | None = None
    arguments: dict[str, dict[str, Any]] = {"data": {}, "trainer": {}}
    tokens = iter(fit_args)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--"):
            raise SystemExit(f"lit-cv: error: unexpected argument {token!r}: options start with --.")
        value = value if equals else next(tokens, "")
        section, _, key = name.partition(".")
        if name == "data":
            data = value
        elif section in arguments and key and "." not in key:
            arguments[section][key] = load_yaml(value, f"--{name}")
        else:
            raise SystemExit(f"lit-cv: error: compare takes no --{name}: set it in the comparison file (--comparison).")
    comparison = read_comparison(
        options.comparison, approaches=options.approaches, labels=options.labels, seeds=options.seeds,
        steps=options.steps, minutes=options.minutes, pretraining_seeds=options.pretraining_seeds,
        weights=options.weights, backbone=options.backbone, data=data, data_args=arguments["data"],
        trainer=arguments["trainer"] or None,
    )  # fmt: skip
    return comparison if options.pretraining_steps is None else comparison.with_steps(options.pretraining_steps)
