"""Train recipes with several seeds, and report mean and standard deviation of their test metrics.

`chain` repeats the README's example of pretraining: SimCLR on the digits, then a linear probe and fine-tuning of its
weights with 20 labels, and training from scratch, each with every seed and every draw of the labels.

python scripts/repeat_recipes.py recipes supervised detection --seeds 0 1 2 --csv repeated.csv
python scripts/repeat_recipes.py recipes bccd_detection --csv repeated.csv --data.root=$LIT_CV_DATA/BCCD
python scripts/repeat_recipes.py chain --seeds 0 1 2 --draws 0 1 2 --csv repeated.csv

Further options are passed to `lit-cv fit`. Runs in the table are not repeated. A recipe on built-in data takes half a
minute to five minutes per seed on one core, the chain about ten minutes.
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
Row = dict[str, str]
COLUMNS = ("what", "seed", "draw", "metric", "value", "seconds")
LABELS = ("--data", "DigitsDataModule", "--data.labels_per_class", "2")


def fit_and_test(folder: str, arguments: list[str]) -> tuple[dict[str, float], float]:
    """Train in a folder, and return the test metrics of the best checkpoint and the CPU seconds of training."""
    from lit_cv.cli import main

    os.chdir(folder)
    started = time.process_time()
    main(["fit", *arguments])
    seconds = time.process_time() - started
    metrics = main(["test", "--ckpt_path", "best"]).trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}, seconds


def pretrain(folder: str, seed: int) -> str:
    """Run the recipe `simclr` in a folder, and return the path of its best checkpoint."""
    from lit_cv.cli import main

    os.chdir(folder)
    cli = main(["fit", "--config", "simclr", "--seed_everything", str(seed)])
    return str(Path(cli.trainer.checkpoint_callback.best_model_path).resolve())


class Table:
    """A CSV file of metrics, to which each run appends its rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, what: str, seed: int, draw: int | None) -> bool:
        """Return whether a run is in the table."""
        key = (what, str(seed), "" if draw is None else str(draw))
        return any((row["what"], row["seed"], row["draw"]) == key for row in self.rows)

    def add(self, what: str, seed: int, draw: int | None, metrics: dict[str, float], seconds: float) -> None:
        """Add the metrics of one run."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            for metric, value in metrics.items():
                cells = (what, seed, "" if draw is None else draw, metric, f"{value:.6f}", f"{seconds:.0f}")
                row = dict(zip(COLUMNS, map(str, cells), strict=True))
                writer.writerow(row)
                self.rows.append(row)

    def summary(self) -> str:
        """Return a Markdown table of means, standard deviations, numbers of runs and mean seconds."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row["what"], row["metric"]), []).append(row)
        lines = ["| what | metric | mean | standard deviation | runs | CPU seconds |", "|---|---|---|---|---|---|"]
        for (what, metric), rows in groups.items():
            values = [float(row["value"]) for row in rows]
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            seconds = statistics.mean(float(row["seconds"]) for row in rows)
            lines.append(
                f"| {what} | {metric} | {statistics.mean(values):.4f} | {spread} | {len(values)} | {seconds:.0f} |"
            )
        return "\n".join(lines)


def fresh(function: Callable[..., T], folder: str, *arguments: object) -> T:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, folder, *arguments).result()


def run_recipes(args: argparse.Namespace, options: list[str], table: Table) -> None:
    for recipe in args.recipes:
        for seed in tqdm(args.seeds, desc=recipe):
            if not table.has(recipe, seed, None):
                with tempfile.TemporaryDirectory() as folder:
                    command = ["--config", recipe, "--seed_everything", str(seed), *options]
                    table.add(recipe, seed, None, *fresh(fit_and_test, folder, command))


def run_chain(args: argparse.Namespace, further: list[str], table: Table) -> None:
    for seed in tqdm(args.seeds, desc="pretraining seeds"):
        with tempfile.TemporaryDirectory() as folder:
            weights = fresh(pretrain, folder, seed)
            methods = {
                "linear probe": ["--config", "linear_probe", "--model.weights", weights],
                "fine-tuned": ["--config", "fine_tune", "--model.weights", weights],
                "from scratch": ["--config", "supervised"],
            }
            for draw in args.draws:
                for what, options in methods.items():
                    if not table.has(what, seed, draw):
                        labels = ["--seed_everything", str(seed), *LABELS, "--data.label_seed", str(draw)]
                        table.add(what, seed, draw, *fresh(fit_and_test, folder, [*options, *labels, *further]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recipes = commands.add_parser("recipes", help="each recipe with each seed")
    recipes.add_argument("recipes", nargs="+")
    chain = commands.add_parser("chain", help="pretraining, probe, fine-tuning, and training from scratch")
    chain.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="seeds of the choice of labels")
    for command in (recipes, chain):
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--csv", type=Path, default=Path("repeated.csv"), help="table to append to")
    args, options = parser.parse_known_args()
    table = Table(args.csv)
    {"recipes": run_recipes, "chain": run_chain}[args.command](args, options, table)
    print(table.summary())


if __name__ == "__main__":
    main()
