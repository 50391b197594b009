"""`python -m lit_cv`: the same as the program `lit-cv`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python has put the working directory first, a folder of data: a file `torch.py` in it would be imported.
        sys.path.append(sys.path.pop(0))

    from lit_cv.cli import console

    console()
