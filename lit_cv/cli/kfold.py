"""The verb `kfold`: cross-validation of any fit."""

from lit_cv.cli.own_options import OwnParser, command_line, flag, output_folder

__all__ = ["run_kfold"]

DEFAULT_OUTPUT = "lightning_logs/kfold"


def _parser() -> OwnParser:
    parser = OwnParser(
        "kfold",
        "Train a fresh model for each fold of the training images, and judge it on the images that it has not seen.\n"
        "All other options are those of `lit-cv fit`. The same command continues what was stopped.",
        "  lit-cv kfold --config supervised --folds 5 --trainer.max_epochs 10\n"
        "  lit-cv kfold --config imagefolder_supervised --data.root photos --group_pattern 'patient(\\d+)'",
        "[options] [options of fit]",
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (5)")
    parser.add_argument("--repeats", type=int, default=1, help="divisions into folds, each by another seed (1)")
    parser.add_argument("--stratified", type=flag, help="whether folds hold the classes in proportion (true for one "
                        "label an image)")  # fmt: skip
    parser.add_argument("--groups", help="CSV of image and `group`: images of a group stay together")
    parser.add_argument("--group_pattern", help="regular expression that finds the group in an image's name")
    parser.add_argument("--fold_seed", type=int, default=0, help="seed of the division (0)")
    parser.add_argument("--judge", choices=("last", "best"), default="last", help="weights that are judged; the best "
                        "epoch was chosen by the fold's own images (last)")  # fmt: skip
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (lightning_logs/kfold)")
    parser.add_argument("--escape_formulas", action="store_true", help="put an apostrophe before names in the tables "
                        "that a spreadsheet would compute (they begin with = + - @)")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="list the runs and how long they take, and do nothing")
    return parser


def run_kfold(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    own, rest = _parser().parse_before_fit(args)
    from lit_cv.studies.kfold import CrossValidation, FoldOptions

    options = FoldOptions(
        own.folds, own.repeats, own.stratified, own.groups, own.group_pattern, own.fold_seed, own.judge
    )
    folder, command = output_folder(own.output, DEFAULT_OUTPUT), command_line("kfold", args)
    validation = CrossValidation(rest, options, folder, command, own.escape_formulas)
    if own.dry_run:
        print(validation.study.describe(validation.time_a_step()))
    else:
        validation.run()
