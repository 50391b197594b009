"""`python -m lit_cv`: the same as the program `lit-cv`."""

from lit_cv.cli import console

console()
