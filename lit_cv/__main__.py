"""`python -m lit_cv`: the same as the program `lit-cv`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python has put the working directory first, a folder of data: a file `torch.py` in it would be imported, and a
        # folder `datamodules` would hide the package. Modules that the user names are found there without it.
        folder = sys.path.pop(0)
        if Path(folder).resolve() == Path(__file__).resolve().parent.parent:  # run where it lies, not installed
            sys.path.append(folder)

    from lit_cv.cli import console

    console()
