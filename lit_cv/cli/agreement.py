"""`lit-cv agreement`: how far annotators agree, and what their labels come to."""

import os
from pathlib import Path

from datamodules import CSVDataModule
from lit_cv.annotations.annotators import Consolidation
from lit_cv.atomic_files import describe_path, next_free_path
from lit_cv.cli.convert import OneLineParser
from lit_cv.printable import printable

__all__ = ["agreement", "run"]


def agreement(
    path: str,
    out: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    annotator_column: str = "annotator",
    consensus: Consolidation = "dawid_skene",
    escape_formulas: bool = False,
) -> None:
    """Tell how far several annotators agree, and write what their labels come to, the most disputed images first.

    Args:
        path: Table with a row for each image and annotator.
        out: Table to write: for each image its class, how probable it is, the agreement, and the votes. It must not
            be there already; `None` takes `consensus.csv`, or the next with a number that is free.
        path_column: Column of the images.
        label_column: Column of the classes.
        annotator_column: Column of the annotators.
        consensus: `majority` and `soft` take the shares of the votes, `dawid_skene` weighs the annotators.
        escape_formulas: Whether names of images and classes that a spreadsheet would compute (`=...`, `+...`, `-...`,
            `@...`) get an apostrophe before them. `CSVDataModule` reads them as they were.
    """
    if out is not None and os.path.lexists(out):
        raise ValueError(
            f"{printable(out, lines=False)} is there already, perhaps corrected: give another name (--out)."
        )
    votes = CSVDataModule(
        path,
        path_column=path_column,
        label_columns=[label_column],
        annotator_column=annotator_column,
        consensus=consensus,
    ).read_votes()
    table = next_free_path(Path("consensus.csv")) if out is None else Path(out)
    print(votes.summary(f" (all are in {printable(str(table), lines=False)})"))
    for name, accuracy in zip(votes.annotators, votes.consensus.accuracy, strict=True):
        print(f"  {printable(name, lines=False)}: {100 * accuracy:.1f} % of the votes equal the consensus")
    votes.write(table, escape_formulas)
    print(f"Written: {printable(describe_path(table, Path(out or 'consensus.csv')), lines=False)}")


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    agreement(**OneLineParser("agreement", agreement).read(args))
