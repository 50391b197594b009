"""Code and docs use American spelling, and none of the phrases that native readers have to decode."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOLDERS = ("lit_cv", "datamodules", "scripts", "examples", "tests", "docs")
ALLOWED = {
    "tests/test_language.py": "holds the patterns",
}
"""Files and folders that are not checked, with the reason."""
BRITISH = (
    r"(un)?(label|model|cancel|signal)l(ed|ing)|grey(scale)?s?|(be|neigh)(h?avi|b)ours?\w*|(col|fav|hon|flav)our\w*|"
    r"(cent|met)re[ds]?|learnt|misspelt|licence|(anal|paral+el)ys(e[ds]?|ing)|catalogue[ds]?|artefacts?|judgement|"
    r"(de)?(normal|minim|maxim|optim|initial|regular|general|summar|recogn|visual|organ|serial|discret|token|quant|"
    r"random|stabil|binar|vector|categor|standard|local|custom|util|real|character|synchron|special|penal)"
    r"is(e[drs]?|ing|ations?)"
)
PHRASES = {
    "left over": "missing or unexpected keys, remaining",
    "(is|was|are) gone": "was deleted, disappeared, is lost",
    "not to be found": "not found",
    "(tells|says|is told|is said) of": "describes, states",
    "what there is": "name it",
    "what is (said|there|given)": "name it",
    "without a word": "silently",
    "(is|was|are) had": "is available",
    "(is|are) said": "is logged, is reported",
    "one a core": "one per core",
    "(as|where) it lies": "unchanged, in place",
    "the same by": "the same with",
    "such as those of": "like those of",
    "of late": "recently",
    "gives? way": "is replaced",
    "takes? none": "accepts no arguments",
    "(tell|told|tells|telling) apart": "distinguish",
    "for want of": "without, out of memory",
    "stand(s|ing)? still": "frozen",
    "hangs? on": "depends on",
    "for ever": "forever",
}
"""Regular expressions of phrases, with better words."""
OPENINGS = ("Tell", "Say", "Be")
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))])
    if path.suffix in (".py", ".md", ".yaml", ".ipynb")
    and not path.relative_to(ROOT).as_posix().startswith(tuple(ALLOWED))
}


def matches(pattern: str) -> Iterator[str]:
    """Yield path, line and text of each match; the parts of names in snake case are words."""
    expression = re.compile(rf"(?<![^\W_])({pattern})(?![^\W_])", re.IGNORECASE)
    for path, text in FILES.items():
        for number, line in enumerate(text.splitlines(), 1):
            yield from (f"{path}:{number}: {match[0]}" for match in expression.finditer(line))


def test_spelling_is_american() -> None:
    assert list(matches(BRITISH)) == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_unclear_phrase(phrase: str) -> None:
    assert list(matches(phrase)) == [], f"better: {PHRASES[phrase]}"


def test_docstrings_open_with_clear_verb() -> None:
    unclear = []
    for path, text in FILES.items():
        for node in ast.walk(ast.parse(text)) if path.endswith(".py") else ():
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if docstring.partition(" ")[0].rstrip(".") in OPENINGS:
                    unclear.append(f"{path}:{getattr(node, 'lineno', 1)}: {docstring.splitlines()[0]}")
    assert unclear == []
