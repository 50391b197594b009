"""Write the report of a comparison, from its `compare.csv` alone."""

import base64
import html
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lit_cv.atomic_files import write_text
from lit_cv.errors import argument, setting
from lit_cv.figures import render, save_png
from lit_cv.figures.comparison import Measured, compute_figure, cost_figure, labels_figure, overview_figure
from lit_cv.printable import printable
from lit_cv.studies.comparison_plan import budget_words
from lit_cv.studies.comparison_results import Verdict, check_rows, judge, measure, not_finite
from lit_cv.studies.markdown import escape_markdown
from lit_cv.studies.progress_line import duration
from lit_cv.studies.study_files import Row, read_study_table

__all__ = ["write_report"]

TABLE = "compare.csv"


def write_report(folder: Path, cost_per_label: float | None = None) -> str:
    """Write `compare.md`, `compare.html` and their figures next to `compare.csv`.

    Args:
        folder: Folder of the comparison.
        cost_per_label: Cost of one label, in any currency.

    Returns:
        The report as text for a terminal.

    Raises:
        FileNotFoundError: If `compare.csv` does not exist.
        ValueError: If no run has succeeded, or the table is damaged.
    """
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(f"{folder / TABLE} does not exist: run `lit-cv compare`, or set {argument('output')}.")
    rows = read_study_table(folder / TABLE)
    check_rows(rows, folder / TABLE)
    measured = measure(rows)
    metric = re.sub(r"(^|_)acc$", " accuracy", rows[0]["metric"].removeprefix("test_")).strip()
    figures = {
        "overview": overview_figure(measured, metric, cost_per_label),
        "labels": labels_figure(measured, metric),
        "compute": compute_figure(measured, metric),
    }
    if cost_per_label is not None:
        figures["cost"] = cost_figure(measured, metric, cost_per_label)
    for name, figure in figures.items():
        save_png(render(figure), folder / f"compare_{name}.png")
    titles = {a.name: a.title for a in measured}
    report = _Report(
        head=f"Comparison on {rows[0]['data']}",
        verdicts=[_sentence(verdict, titles, metric) for verdict in judge(measured)] + _choices(rows, measured, metric),
        tables=[_table(measured, metric), _times(measured)],
        notes=_notes(rows),
    )
    links = "\n\n".join(f"![{name}](compare_{name}.png)" for name in figures)
    text = _markdown(report, escape_markdown)
    write_text(folder / "compare.md", f"{text}\n\n{links}\n", "the report")
    write_text(folder / "compare.html", _html(report, folder, list(figures)), "the report")
    return printable(f"{_markdown(report, str)}\n\nReport: {folder / 'compare.html'}")


class _Entry(NamedTuple):
    """A cell of a table in the report."""

    text: str
    bold: bool = False


_Table = list[list[_Entry]]


@dataclass(frozen=True)
class _Report:
    """Content of the report; its texts are not escaped."""

    head: str
    verdicts: list[str]
    tables: list[_Table]
    notes: list[str]


def _sentence(verdict: Verdict, titles: Mapping[str, str], metric: str) -> str:
    if verdict.second is None:
        return f"{budget_words(verdict.budget)}: only {titles[verdict.best]} was measured."
    if verdict.difference == 0:
        equal = f"{titles[verdict.best]} and {titles[verdict.second]} have the same {metric}"
        return f"{budget_words(verdict.budget)}: {equal}, choose the simpler or the faster of the two."
    lead = f"{100 * verdict.difference:.1f} points of {metric} ahead of {titles[verdict.second]}"
    if math.isnan(verdict.spread):
        significance = "but its spread is unknown with one seed"
    else:
        more = "more than" if verdict.exceeds else "not more than"
        significance = f"{more} the spread of such a difference between seeds ({100 * verdict.spread:.1f})"
        significance += "" if verdict.exceeds else ": choose the simpler or the faster of the two"
    return f"{budget_words(verdict.budget)}: {titles[verdict.best]}, {lead}, {significance}."


def _choices(rows: Sequence[Row], measured: Sequence[Measured], metric: str) -> list[str]:
    """Return for each label budget which approach is chosen without test labels, and what this choice costs."""
    good = [row for row in rows if not row["error"] and row.get("choose_by") and row.get(row["choose_by"])]
    sentences = []
    for budget in dict.fromkeys(row["budget"] for row in good):
        scores: dict[str, list[float]] = {}
        for row in good:
            if row["budget"] == budget:
                scores.setdefault(row["approach"], []).append(float(row[row["choose_by"]]))
        cells = {a.name: (a.title, cell.mean) for a in measured if a.name in scores and (cell := a.cell(budget))}
        if len(cells) < 2:
            continue
        chosen = max(cells, key=lambda name: statistics.mean(scores[name]))
        best = max(cells, key=lambda name: cells[name][1])
        (title, accuracy), (_, highest), name = cells[chosen], cells[best], good[0]["choose_by"]
        sentences.append(
            f"{budget_words(budget)}, chosen without labels of the test images: {title}, which has the highest "
            f"{name} ({statistics.mean(scores[chosen]):.3f}); this choice costs "
            f"{100 * (highest - accuracy):.1f} points of {metric}."
        )
    return sentences


def _table(measured: Sequence[Measured], metric: str) -> _Table:
    budgets = {cell.budget: cell.labels for a in measured for cell in a.cells}
    order = sorted(budgets, key=lambda b: budgets[b])
    best = {verdict.budget: verdict.best for verdict in judge(measured)}
    lines = [[_Entry(f"test {metric} in %"), *(_Entry(budget_words(budget)) for budget in order)]]
    for approach in measured:
        line = [_Entry(approach.title)]
        for budget in order:
            cell = approach.cell(budget)
            text = "" if cell is None else f"{100 * cell.mean:.1f}"
            text += f" ± {100 * cell.spread:.1f}" if cell is not None and len(cell.values) > 1 else ""
            line.append(_Entry(text, best[budget] == approach.name))
        lines.append(line)
    return lines


def _times(measured: Sequence[Measured]) -> _Table:
    heads = ("seconds of training", "earlier stages", "last stage, per run", "total")
    lines = [[_Entry(head) for head in heads]]
    for approach in measured:
        pretraining = statistics.mean(cell.pretraining_seconds for cell in approach.cells)
        labeled = statistics.mean(cell.seconds for cell in approach.cells)
        seconds = [f"{s:.1f}" if s else "-" for s in (pretraining, labeled, pretraining + labeled)]
        lines.append([_Entry(approach.title), *map(_Entry, seconds)])
    return lines


def _notes(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if not row["error"]]
    seeds = len({row["seed"] for row in good})
    notes = [
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} of label choice, weights and data order; ± is the standard "
        "deviation over seeds. Each run was tested once, at its end: no validation labels were used.",
    ]
    kinds = {row["pretraining_seeds"] for row in good} - {""}
    if "one" in kinds:
        notes.append(
            "Pretraining ran once, with the first seed, and is shared by all label budgets and seeds: the spread does "
            f"not include variation of the pretraining ({setting('pretraining_seeds', 'each')} measures it). Its "
            "time counts in full for each approach that starts from it."
        )
    total = sum(float(row["seconds"] or 0) for row in good)
    shared = {(row["pretraining_steps"], row["pretraining_seconds"]) for row in good}
    total += sum(float(seconds) for _, seconds in shared)
    notes.append(f"Training took {duration(total)} in total.")
    notes += [
        f"{row['approach']}, {budget_words(row['budget'])}, seed {row['seed']}: {row['metric']} is "
        f"{float(row[row['metric']]):g}, so {row['approach']} has no mean and no rank there."
        for row in not_finite(good)
    ]
    for row in rows:
        if row["error"]:
            words = budget_words(row["budget"])
            notes.append(f"{row['approach']}, {words}, seed {row['seed']} failed: {row['error']}")
    return notes


def _markdown(report: _Report, escape: Callable[[str], str]) -> str:
    """Return the report as Markdown.

    Args:
        report: The report.
        escape: Escapes each text.
    """

    def items(lines: Sequence[str]) -> str:
        return "\n".join(f"- {escape(line)}" for line in lines)

    tables = [_markdown_table(table, escape) for table in report.tables]
    parts = [f"# {escape(report.head)}", "## Which to choose", items(report.verdicts), "## Results", *tables]
    return "\n\n".join([*parts, items(report.notes)])


def _markdown_table(table: _Table, escape: Callable[[str], str]) -> str:
    cells = [[f"**{escape(text)}**" if bold else escape(text) for text, bold in line] for line in table]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#24292f}
table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #d8dee4;padding:.3em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%;margin:1em 0}li{margin:.3em 0}"""


def _html(report: _Report, folder: Path, figures: Sequence[str]) -> str:
    """Return the report as one HTML file with embedded figures."""

    def escaped(text: str) -> str:
        return html.escape(printable(text, lines=False))

    def items(lines: Sequence[str]) -> str:
        return "<ul>" + "".join(f"<li>{escaped(line)}</li>" for line in lines) + "</ul>"

    def cell(entry: _Entry, tag: str) -> str:
        inner = f"<b>{escaped(entry.text)}</b>" if entry.bold else escaped(entry.text)
        return f"<{tag}>{inner}</{tag}>"

    parts = [f"<h1>{escaped(report.head)}</h1>", "<h2>Which to choose</h2>", items(report.verdicts), "<h2>Results</h2>"]
    for table in report.tables:
        body = [[cell(entry, "th" if row == 0 else "td") for entry in line] for row, line in enumerate(table)]
        parts.append("<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in body) + "</table>")
    parts.append(items(report.notes))
    for key in figures:
        content = base64.b64encode((folder / f"compare_{key}.png").read_bytes()).decode()
        parts.append(f'<img alt="{key}" src="data:image/png;base64,{content}">')
    title = f"<title>{escaped(report.head)}</title>"
    top = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}<style>{_STYLE}</style></head>'
    return f"{top}<body>{''.join(parts)}</body></html>\n"
