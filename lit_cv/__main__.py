"""Run `python -m lit_cv`, which is the same as the command `lit-cv`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python puts the working directory first on the import path. It is a folder of data: a file `torch.py` there
        # would be imported, and a folder `datamodules` would hide the package. Modules that the user names in a command
        # are found there without this entry.
        folder = sys.path.pop(0)
        if Path(folder).resolve() == Path(__file__).resolve().parent.parent:  # run from the repository, not installed
            sys.path.append(folder)

    from lit_cv.cli import console

    console()
