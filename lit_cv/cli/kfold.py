"""The verb `kfold`: cross-validate any fit."""

from lit_cv.cli.verb_options import VerbParser, command_line, flag, output_folder
from lit_cv.light_torchmetrics import import_torchmetrics

__all__ = ["run_kfold"]

DEFAULT_OUTPUT = "lightning_logs/kfold"


def _parser() -> VerbParser:
    parser = VerbParser(
        "kfold",
        "Train a fresh model for each fold of the training images, and evaluate it on the held-out images.\n"
        "All options of `lit-cv fit` apply. Run the same command again to resume.",
        "  lit-cv kfold --config supervised --folds 5 --trainer.max_epochs 10\n"
        "  lit-cv kfold --config imagefolder_supervised --data.root photos --group_pattern 'patient(\\d+)'",
        "[options] [options of fit]",
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: 5)")
    parser.add_argument("--repeats", type=int, default=1, help="splits into folds, each with another seed (default: 1)")
    parser.add_argument("--stratified", type=flag, help="whether each fold keeps the class proportions (default: true "
                        "if images have one label)")  # fmt: skip
    parser.add_argument("--groups", help="CSV file with image and `group`: images of a group stay in one fold")
    parser.add_argument("--group_pattern", help="regular expression that finds the group in an image name")
    parser.add_argument("--fold_seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.add_argument("--judge", choices=("last", "best"), default="last", help="weights to evaluate; the best "
                        "epoch is chosen on the held-out images, which biases its score (default: last)")  # fmt: skip
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="output folder (default: lightning_logs/kfold)")
    parser.add_argument("--escape_formulas", action="store_true", help="put an apostrophe before names in the tables "
                        "that a spreadsheet would evaluate (they begin with = + - @)")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="list the runs and their expected duration, then exit")
    return parser


def run_kfold(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    options, fit_args = _parser().parse_before_fit(args)
    import_torchmetrics()
    from lit_cv.studies.kfold import CrossValidation, FoldOptions

    fold_options = FoldOptions(
        options.folds,
        options.repeats,
        options.stratified,
        options.groups,
        options.group_pattern,
        options.fold_seed,
        options.judge,
    )
    folder, command = output_folder(options.output, DEFAULT_OUTPUT), command_line("kfold", args)
    validation = CrossValidation(fit_args, fold_options, folder, command, options.escape_formulas)
    if options.dry_run:
        print(validation.study.describe(validation.time_a_step()))
    else:
        validation.run()
