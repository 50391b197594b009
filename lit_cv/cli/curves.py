"""The verb `curves`: the training curves of several runs over each other."""

import re
from pathlib import Path

from lit_cv.cli.own_options import OwnParser
from lit_cv.printable import printable

__all__ = ["run_curves"]


def _parser() -> OwnParser:
    parser = OwnParser(
        "curves",
        "Draw the training curves of one or several runs over each other, from their metrics.csv.",
        "  lit-cv curves lightning_logs/version_0 lightning_logs/version_1 --metrics train_loss val_acc\n"
        "  lit-cv curves lightning_logs",
        "RUN... [options]",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of several, or a metrics.csv")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to draw (losses and those of validation)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the runs (those of their folders)")
    parser.add_argument("--over", choices=("epoch", "step"), default="epoch", help="what the curves run over (epoch)")
    parser.add_argument("--output", default="curves.png", help="picture (curves.png)")
    parser.add_argument("--dry_run", action="store_true", help="list what would be drawn, and do nothing")
    return parser


def run_curves(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    own = _parser().parse(args)
    from lit_cv.figures import History, render, save_png
    from lit_cv.figures.overlay import overlay_figure

    paths = list(dict.fromkeys(path for run in own.runs for path in _tables(run)))
    names = own.names or _names(paths)
    if len(names) != len(paths):
        raise ValueError(f"{len(names)} names for {len(paths)} runs: give one for each (--names).")
    if own.dry_run:
        for name, path in zip(names, paths, strict=True):
            print(printable(f"{name}: {path}", lines=False))
        print(printable(f"to be drawn in {own.output}, in seconds", lines=False))
        return
    histories = {name: History.read(path) for name, path in zip(names, paths, strict=True)}
    if len(paths) > len(own.runs):  # in a folder there may be runs that failed at once
        histories = {name: history for name, history in histories.items() if history.rows}
    save_png(render(overlay_figure(histories, own.metrics, own.over)), own.output)
    count = f"{len(histories)} {'run' if len(histories) == 1 else 'runs'}"
    print(printable(f"{count} drawn: {own.output}", lines=False))


def _tables(run: str) -> list[Path]:
    """Return the table of a run, or those of all runs in a folder, in the order of their numbers."""
    path = Path(run)
    if path.suffix == ".csv" or (path / "metrics.csv").is_file():
        found = [path if path.suffix == ".csv" else path / "metrics.csv"]
    else:
        found = sorted(path.rglob("metrics.csv"), key=_by_number)
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{run} is no run and holds none: there is no metrics.csv.")
    return found


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a key by which version_10 comes after version_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _names(paths: list[Path]) -> list[str]:
    """Return the names of the runs' folders, with as much of what is above as tells them apart."""
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.absolute().parts[-1 - depth : -1]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.parent} ({number})" for number, path in enumerate(paths, 1)]
