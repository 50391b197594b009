"""The report of a comparison, made from its `compare.csv` alone."""

import base64
import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_cv.evaluation.comparison_plan import budget_words
from lit_cv.evaluation.progress_line import duration
from lit_cv.evaluation.study import Row, read_table, write_atomically
from lit_cv.figures import render, save_png
from lit_cv.figures.comparison import Cell, Measured, compute_figure, cost_figure, labels_figure, overview_figure

__all__ = ["Verdict", "judge", "measure", "write_report"]

TABLE = "compare.csv"


@dataclass(frozen=True)
class Verdict:
    """Which approach is the best at a number of labels.

    Attributes:
        budget: The number of labels, as it was given.
        best: The approach of the highest mean.
        second: The next one, `None` where there is one approach alone.
        difference: By how much it is better.
        spread: Standard deviation of a difference of two runs, sqrt(s1^2 + s2^2); `nan` where it is unknown.
    """

    budget: str
    best: str
    second: str | None
    difference: float
    spread: float

    @property
    def exceeds(self) -> bool:
        """Whether the difference is greater than the spread."""
        return self.difference > self.spread


def measure(rows: Sequence[Row]) -> list[Measured]:
    """Return the approaches with mean and spread at each number of labels, in the order of the table.

    Args:
        rows: Rows of `compare.csv`; those of failed runs are left out.

    Raises:
        ValueError: If no run has succeeded.
    """
    good = [row for row in rows if not row["error"]]
    if not good:
        raise ValueError("no run of the comparison has succeeded: there is nothing to report.")
    found = []
    for name in dict.fromkeys(row["approach"] for row in good):
        own = [row for row in good if row["approach"] == name]
        cells = []
        for budget in sorted({row["budget"] for row in own}, key=lambda b: _labels_of(own, b)):
            same = [row for row in own if row["budget"] == budget]
            values = [float(row[row["metric"]]) for row in same]
            cells.append(
                Cell(
                    budget=budget,
                    labels=_labels_of(own, budget),
                    images=max(int(row["images"]) for row in same),
                    values=tuple(values),
                    seconds=statistics.mean(float(row["seconds"]) for row in same),
                    pretraining_seconds=statistics.mean(float(row["pretraining_seconds"]) for row in same),
                )
            )
        found.append(Measured(name, own[0]["title"], tuple(cells)))
    return found


def judge(measured: Sequence[Measured]) -> list[Verdict]:
    """Return which approach is the best at each number of labels, and whether by more than the spread."""
    budgets = {cell.budget: cell.labels for approach in measured for cell in approach.cells}
    verdicts = []
    for budget in sorted(budgets, key=lambda b: budgets[b]):
        cells = {a.name: a.cell(budget) for a in measured}
        ranked = sorted(((c.mean, name, c) for name, c in cells.items() if c), key=lambda entry: -entry[0])
        mean, best, first = ranked[0]
        if len(ranked) == 1:
            verdicts.append(Verdict(budget, best, None, math.nan, math.nan))
            continue
        other, second, next_best = ranked[1]
        verdicts.append(Verdict(budget, best, second, mean - other, math.hypot(first.spread, next_best.spread)))
    return verdicts


def write_report(folder: Path, cost_per_label: float | None = None) -> str:
    """Write `compare.md`, `compare.html` and their pictures beside `compare.csv`.

    Args:
        folder: Folder of the comparison.
        cost_per_label: Cost of one label in a currency of your own.

    Returns:
        The text of `compare.md`, up to its pictures.

    Raises:
        FileNotFoundError: If there is no `compare.csv`.
        ValueError: If no run has succeeded.
    """
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(f"there is no {folder / TABLE}: run `lit-cv compare`, or set --output.")
    rows = read_table(folder / TABLE)
    measured = measure(rows)
    metric = rows[0]["metric"].removeprefix("test_")
    name = "accuracy" if metric == "acc" else metric
    figures = {
        "overview": overview_figure(measured, name, cost_per_label),
        "labels": labels_figure(measured, name),
        "compute": compute_figure(measured, name),
    }
    if cost_per_label is not None:
        figures["cost"] = cost_figure(measured, name, cost_per_label)
    for key, figure in figures.items():
        save_png(render(figure), folder / f"compare_{key}.png")
    titles = {a.name: a.title for a in measured}
    head = f"# Comparison on {rows[0]['data']}"
    answer = [_sentence(verdict, titles, name) for verdict in judge(measured)]
    table = [_table(measured, name), _times(measured)]
    notes = _notes(rows)
    text = "\n\n".join([head, "## Which to choose", "\n".join(f"- {line}" for line in answer),
                        "## Measured", *map(_markdown, table), "\n".join(f"- {line}" for line in notes)])  # fmt: skip
    pictures = "\n\n".join(f"![{key}](compare_{key}.png)" for key in figures)
    write_atomically(folder / "compare.md", f"{text}\n\n{pictures}\n")
    write_atomically(folder / "compare.html", _html(head[2:], answer, table, notes, folder, list(figures)))
    return f"{text}\n\nReport: {folder / 'compare.html'}"


def _labels_of(rows: Sequence[Row], budget: str) -> int:
    return next(int(row["labels"]) for row in rows if row["budget"] == budget)


def _sentence(verdict: Verdict, titles: Mapping[str, str], metric: str) -> str:
    if verdict.second is None:
        return f"{budget_words(verdict.budget)}: {titles[verdict.best]} alone was measured."
    by = f"{100 * verdict.difference:.1f} points of {metric} ahead of {titles[verdict.second]}"
    if math.isnan(verdict.spread):
        rest = "one seed, so its spread is unknown"
    else:
        more = "more than" if verdict.exceeds else "not more than"
        rest = f"{more} the spread of such a difference between seeds ({100 * verdict.spread:.1f})"
        rest += "" if verdict.exceeds else ": take the simpler or the faster of the two"
    return f"{budget_words(verdict.budget)}: {titles[verdict.best]}, {by}, {rest}."


Table = list[list[str]]


def _table(measured: Sequence[Measured], metric: str) -> Table:
    budgets = {cell.budget: cell.labels for a in measured for cell in a.cells}
    order = sorted(budgets, key=lambda b: budgets[b])
    best = {verdict.budget: verdict.best for verdict in judge(measured)}
    lines = [[f"test {metric} in %", *map(budget_words, order)]]
    for approach in measured:
        line = [approach.title]
        for budget in order:
            cell = approach.cell(budget)
            text = "" if cell is None else f"{100 * cell.mean:.1f}"
            text += f" ± {100 * cell.spread:.1f}" if cell is not None and len(cell.values) > 1 else ""
            line.append(f"**{text}**" if best[budget] == approach.name else text)
        lines.append(line)
    return lines


def _times(measured: Sequence[Measured]) -> Table:
    lines = [["seconds of training", "pretraining, shared", "with labels, a run", "together"]]
    for approach in measured:
        pretraining = statistics.mean(cell.pretraining_seconds for cell in approach.cells)
        own = statistics.mean(cell.seconds for cell in approach.cells)
        lines.append([approach.title, *(f"{s:.1f}" if s else "-" for s in (pretraining, own, pretraining + own))])
    return lines


def _notes(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if not row["error"]]
    seeds = len({row["seed"] for row in good})
    notes = [
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} of the choice of labels, the weights and the order of training; "
        "± is the standard deviation over them. Each run is tested once, at its end: no validation labels were used.",
    ]
    kinds = {row["pretraining_seeds"] for row in good} - {""}
    if "one" in kinds:
        notes.append(
            "Pretraining was done once, with the first seed, and is shared by all numbers of labels and seeds: the "
            "spread is without that of pretraining (`--pretraining_seeds each` measures it). Its time is counted in "
            "full for each approach that starts from it."
        )
    total = sum(float(row["seconds"] or 0) for row in good)
    shared = {(row["pretraining_steps"], row["pretraining_seconds"]) for row in good}
    total += sum(float(seconds) for _, seconds in shared)
    notes.append(f"Training took {duration(total)} in all.")
    for row in rows:
        if row["error"]:
            words = budget_words(row["budget"])
            notes.append(f"{row['approach']}, {words}, seed {row['seed']} failed: {row['error']}")
    return notes


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#24292f}
table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #d8dee4;padding:.3em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%;margin:1em 0}li{margin:.3em 0}"""


def _html(
    head: str, answer: Sequence[str], tables: Sequence[Table], notes: Sequence[str], folder: Path, figures: list[str]
) -> str:
    """Return the report as one file, with its pictures in it."""

    def items(lines: Sequence[str]) -> str:
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"

    def cell(text: str, tag: str) -> str:
        inner = html.escape(text)
        if inner.startswith("**"):
            inner = f"<b>{inner.strip('*')}</b>"
        return f"<{tag}>{inner}</{tag}>"

    parts = [f"<h1>{html.escape(head)}</h1>", "<h2>Which to choose</h2>", items(answer), "<h2>Measured</h2>"]
    for table in tables:
        body = [[cell(text, "th" if row == 0 else "td") for text in line] for row, line in enumerate(table)]
        parts.append("<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in body) + "</table>")
    parts.append(items(notes))
    for key in figures:
        content = base64.b64encode((folder / f"compare_{key}.png").read_bytes()).decode()
        parts.append(f'<img alt="{key}" src="data:image/png;base64,{content}">')
    title = f"<title>{html.escape(head)}</title>"
    top = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}<style>{_STYLE}</style></head>'
    return f"{top}<body>{''.join(parts)}</body></html>\n"
