"""The verb `curves`: draw the training curves of several runs into one figure."""

import re
from pathlib import Path

from lit_cv.cli.verb_options import VerbParser
from lit_cv.printable import printable

__all__ = ["run_curves"]


def _parser() -> VerbParser:
    parser = VerbParser(
        "curves",
        "Draw the training curves of one or several runs into one figure, from their metrics.csv.",
        "  lit-cv curves lightning_logs/version_0 lightning_logs/version_1 --metrics train_loss val_acc\n"
        "  lit-cv curves lightning_logs",
        "RUN... [options]",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of several runs, or a metrics.csv")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to draw (default: losses and validation)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the runs (default: their folders)")
    parser.add_argument("--over", choices=("epoch", "step"), default="epoch", help="horizontal axis (default: epoch)")
    parser.add_argument("--output", default="curves.png", help="image to write (default: curves.png)")
    parser.add_argument("--dry_run", action="store_true", help="list what would be drawn, then exit")
    return parser


def run_curves(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    options = _parser().parse(args)
    from lit_cv.figures import History, render, save_png
    from lit_cv.figures.overlay import overlay_figure

    paths = list(dict.fromkeys(path for run in options.runs for path in _tables(run)))
    names = options.names or _names(paths)
    if len(names) != len(paths):
        raise ValueError(f"{len(names)} names for {len(paths)} runs: give one for each (--names).")
    if options.dry_run:
        for name, path in zip(names, paths, strict=True):
            print(printable(f"{name}: {path}", lines=False))
        print(printable(f"would be drawn to {options.output}, within seconds", lines=False))
        return
    histories = {name: History.read(path) for name, path in zip(names, paths, strict=True)}
    if len(paths) > len(options.runs):  # a folder may hold runs that failed before they logged anything
        histories = {name: history for name, history in histories.items() if history.rows}
    save_png(render(overlay_figure(histories, options.metrics, options.over)), options.output)
    count = f"{len(histories)} {'run' if len(histories) == 1 else 'runs'}"
    print(printable(f"{count} drawn: {options.output}", lines=False))


def _tables(run: str) -> list[Path]:
    """Return the metrics table of a run, or those of all runs in a folder, ordered by their numbers."""
    path = Path(run)
    if path.suffix == ".csv" or (path / "metrics.csv").is_file():
        tables = [path if path.suffix == ".csv" else path / "metrics.csv"]
    else:
        tables = sorted(path.rglob("metrics.csv"), key=_by_number)
    if not tables or not tables[0].is_file():
        raise FileNotFoundError(f"{run} is not a run and contains none: no metrics.csv found.")
    return tables


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts version_10 after version_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _names(paths: list[Path]) -> list[str]:
    """Return the folder names of the runs, with as many parent folders as are needed to distinguish them."""
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.absolute().parts[-1 - depth : -1]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.parent} ({number})" for number, path in enumerate(paths, 1)]
