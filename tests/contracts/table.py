"""The writer of `docs/contracts.md`, the table of approaches and contracts: `python -m tests.contracts.table`."""

from pathlib import Path

from tests.contracts.cases import CONTRACTS, Case, cases

PATH = Path(__file__).parents[2] / "docs" / "contracts.md"
HEAD = """# What every approach promises

`pytest --slow tests/contracts` tests each contract for each concrete subclass of `BaseModule`: those of the library,
those that `tests/contracts/approaches.py` defines as a user would, and the examples in docs. A subclass needs one row
in `tests/contracts/cases.py`, or none if it only learns from images with labels. `python -m tests.contracts.table`
writes this page, and a test keeps it up to date. `tests/contracts/test_broken.py` checks that broken contracts are
detected.

"""


def contracts_page() -> str:
    """Return the text of `docs/contracts.md`."""
    notes: list[str] = []
    lines = [f"- **{name}**: {text}." for name, text in CONTRACTS.items()]
    lines += ["", f"| approach | {' | '.join(CONTRACTS)} |", f"|---|{'---|' * len(CONTRACTS)}"]
    for case in sorted(cases(), key=lambda each: (not each.cls.__module__.startswith("lit_cv."), each.name)):
        lines.append(f"| `{case.name}` | {' | '.join(_cell(case, contract, notes) for contract in CONTRACTS)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return HEAD + "\n".join(lines) + "\n"


def _cell(case: Case, contract: str, notes: list[str]) -> str:
    note = case.not_promised.get(contract) or case.notes.get(contract)
    if note is None:
        return "yes"
    if note not in notes:
        notes.append(note)
    return f"{'no' if contract in case.not_promised else 'yes'} ({notes.index(note) + 1})"


if __name__ == "__main__":
    PATH.write_text(contracts_page(), encoding="utf-8")
