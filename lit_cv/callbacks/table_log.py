"""Tables in the loggers of a run, whatever their service."""

from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lit_cv.callbacks.logger_senders import Sender, send_to_loggers
from lit_cv.printable import printable

__all__ = ["Table", "log_table"]

Cell = str | int | float | None


class Table(NamedTuple):
    """A small table.

    Attributes:
        columns: Names of the columns, all different.
        rows: The cells of each row; `None` for a missing value.
    """

    columns: list[str]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        r"""Return the table as Markdown, as TensorBoard shows it.

        Example:
            >>> print(Table(["class", "recall"], [["a|b", 0.5], ["c", None]]).markdown())
            | class | recall |
            |---|---|
            | a\|b | 0.5000 |
            | c |  |
        """
        lines = [self.columns, *([_shown(cell) for cell in row] for row in self.rows)]
        head, *body = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
        return "\n".join([head, "|" + "---|" * len(self.columns), *body])


def log_table(trainer: L.Trainer, name: str, table: Table, step: int) -> None:
    """Send a table to every logger that takes tables or text; the log names the others once.

    Weights & Biases, MLflow and Comet have tables of their own; TensorBoard shows Markdown as text. Loggers with
    `log_table(key, columns, data, step=)`, or whose `experiment` has `add_text(tag, text, step)`, are supported, too.
    In MLflow, tables of one name are appended to one artifact, with the step in a column; in Comet, each is a file
    named after its step. An error in one logger does not keep the table from the others. Call it on rank 0 only.

    Args:
        trainer: The Trainer, with its loggers.
        name: Name of the table, `STAGE/NAME`, such as `val/class_metrics`; no figure or metric may have the same one.
        table: The table.
        step: Optimizer step of the table.
    """
    columns = [printable(column, lines=False) for column in table.columns]
    rows = [[printable(cell, lines=False) if isinstance(cell, str) else cell for cell in row] for row in table.rows]
    missing = "takes neither tables nor text; tables are missing there"
    send_to_loggers(trainer, f"the table {name}", _sender, missing, name, Table(columns, rows), step)


def _sender(logger: Logger) -> Sender | None:
    """Return a function of name, table and step that sends a table to a logger, `None` if there is no way to."""
    experiment: Any = getattr(logger, "experiment", None)
    if isinstance(logger, MLFlowLogger):
        return lambda name, table, step: experiment.log_table(
            logger.run_id, {"step": [step] * len(table.rows), **_by_column(table)}, f"{name}.json"
        )
    if isinstance(logger, CometLogger):
        return lambda name, table, step: experiment.log_table(
            f"{name}_step_{step}.csv", tabular_data=table.rows, headers=table.columns
        )
    if isinstance(logger, WandbLogger) or callable(getattr(logger, "log_table", None)):
        several: Any = logger
        return lambda name, table, step: several.log_table(name, columns=table.columns, data=table.rows, step=step)
    if isinstance(logger, TensorBoardLogger) or callable(getattr(experiment, "add_text", None)):
        return lambda name, table, step: experiment.add_text(name, table.markdown(), step)
    return None


def _by_column(table: Table) -> dict[str, list[Cell]]:
    return {column: [row[k] for row in table.rows] for k, column in enumerate(table.columns)}


def _shown(cell: Cell) -> str:
    return "" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())
