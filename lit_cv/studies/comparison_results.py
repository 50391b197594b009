"""Results of a comparison, from the rows of its `compare.csv` alone."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_cv.csv_tables import parse_count, parse_number
from lit_cv.figures.comparison import Cell, Measured
from lit_cv.figures.history import is_drawable
from lit_cv.printable import printable
from lit_cv.studies.comparison_plan import Budget
from lit_cv.studies.study_files import Row, damaged

__all__ = ["Verdict", "check_rows", "judge", "measure", "not_finite"]

_REQUIRED = ("approach", "title", "data", "budget", "seed", "metric", "labels", "images", "pretraining_steps",
             "pretraining_seconds", "pretraining_seeds", "seconds", "error")  # fmt: skip
_MAX_VALUES = 200  # approaches, and label budgets, that fit into a figure
_MAX_SECONDS = 1e10


@dataclass(frozen=True)
class Verdict:
    """The best approach at a label budget.

    Attributes:
        budget: The label budget.
        best: The approach with the highest mean.
        second: The approach with the second highest mean, `None` if only one was measured.
        difference: Difference of the two means.
        spread: Standard deviation of the difference of two runs, sqrt(s1^2 + s2^2); `nan` if unknown.
    """

    budget: str
    best: str
    second: str | None
    difference: float
    spread: float

    @property
    def exceeds(self) -> bool:
        """Whether the difference exceeds the spread."""
        return self.difference > self.spread


def measure(rows: Sequence[Row]) -> list[Measured]:
    """Return the results of each approach at each label budget, in the order of the table.

    Args:
        rows: Rows of `compare.csv`. Failed runs are left out. So are the label budgets of an approach that have a
            value that is not finite: a mean over the other runs would be biased.

    Raises:
        ValueError: If no run has succeeded.
    """
    good = [row for row in rows if not row["error"]]
    if not good:
        raise ValueError("no run of the comparison has succeeded: there is nothing to report.")
    excluded = {(row["approach"], row["budget"]) for row in not_finite(good)}
    good = [row for row in good if (row["approach"], row["budget"]) not in excluded]
    if not good:
        raise ValueError("no run of the comparison has a finite result: there is nothing to report.")
    measured = []
    for name in dict.fromkeys(row["approach"] for row in good):
        of_approach = [row for row in good if row["approach"] == name]
        cells = []
        for budget in sorted({row["budget"] for row in of_approach}, key=lambda b: _labels_of(of_approach, b)):
            same = [row for row in of_approach if row["budget"] == budget]
            values = [float(row[row["metric"]]) for row in same]
            cells.append(
                Cell(
                    budget=budget,
                    labels=_labels_of(of_approach, budget),
                    images=max(int(row["images"]) for row in same),
                    values=tuple(values),
                    seconds=statistics.mean(float(row["seconds"]) for row in same),
                    pretraining_seconds=statistics.mean(float(row["pretraining_seconds"]) for row in same),
                )
            )
        measured.append(Measured(name, of_approach[0]["title"], tuple(cells)))
    return measured


def judge(measured: Sequence[Measured]) -> list[Verdict]:
    """Return the best approach at each label budget, and its lead over the second."""
    budgets = {cell.budget: cell.labels for approach in measured for cell in approach.cells}
    verdicts = []
    for budget in sorted(budgets, key=lambda b: budgets[b]):
        cells = {a.name: a.cell(budget) for a in measured}
        ranked = sorted(
            ((c.mean, name, c) for name, c in cells.items() if c and all(map(is_drawable, c.values))),
            key=lambda entry: -entry[0],
        )
        if not ranked:
            continue
        mean, best, best_cell = ranked[0]
        if len(ranked) == 1:
            verdicts.append(Verdict(budget, best, None, math.nan, math.nan))
            continue
        other, second, second_cell = ranked[1]
        spread = math.hypot(best_cell.spread, second_cell.spread)
        verdicts.append(Verdict(budget, best, second, mean - other, spread))
    return verdicts


def check_rows(rows: Sequence[Row], path: Path) -> None:
    """Check the cells of a table.

    Raises:
        ValueError: If a cell or a column is invalid or missing; the message names the table.
    """
    for number, row in enumerate(rows, 1):
        try:
            _check_row(row, rows[0], f"row {number}")
        except ValueError as error:
            raise damaged(path, str(error).rstrip(".")) from None
    for name in ("approach", "budget"):
        if len({row[name] for row in rows}) > _MAX_VALUES:
            raise damaged(path, f"it has more than {_MAX_VALUES} different values in the column {name}")


def _check_row(row: Row, first: Row, where: str) -> None:
    if missing := [name for name in _REQUIRED if name not in row]:
        raise ValueError(f"it has no column {missing[0]}")
    try:
        Budget.parse(row["budget"])
    except ValueError:
        raise ValueError(f"{where}, column budget: {printable(row['budget'][:40], lines=False)!r} is invalid") from None
    if row["metric"] != first["metric"]:
        raise ValueError(f"{where}, column metric: it differs from the first row")
    if row["error"]:
        return
    if row["metric"] not in row:
        raise ValueError(f"it has no column {printable(row['metric'][:60], lines=False)}, its metric")
    parse_number(row[row["metric"]], f"{where}, column of the metric")
    for name in ("labels", "images"):
        parse_count(row[name], f"{where}, column {name}", least=1)
    for name in ("seconds", "pretraining_seconds"):
        if not 0 <= (seconds := parse_number(row[name], f"{where}, column {name}")) < _MAX_SECONDS:
            raise ValueError(f"{where}, column {name}: {seconds} is not a duration")


def not_finite(rows: Sequence[Row]) -> list[Row]:
    """Return the successful runs whose metric is NaN or infinite, or too large for a figure."""
    return [row for row in rows if not row["error"] and not is_drawable(float(row[row["metric"]]))]


def _labels_of(rows: Sequence[Row], budget: str) -> int:
    return next(int(row["labels"]) for row in rows if row["budget"] == budget)
