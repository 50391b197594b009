"""Write random image sets in every format, as programs and people do, and read them back.

    python scripts/try_random_sets.py --sets 2000             # some minutes on one core
    python scripts/try_random_sets.py --first 17 --sets 1     # repeat one set, with the traceback of an error

Sets have odd names, suffixes, folders, encodings, bit depths and line ends, and files that belong to no set. No object
may be lost, invented or refused. The number of a set is its seed; the tests check the first ones.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from tests.random_sets.checks import check_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first set")
    options = parser.parse_args()
    logging.getLogger("lit_cv").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    start, kinds, failed = time.perf_counter(), Counter[str](), 0
    for number in range(options.first, options.first + options.sets):
        with tempfile.TemporaryDirectory() as folder:
            try:
                kinds[check_set(number, Path(folder))] += 1
            except Exception as error:
                failed += 1
                print(f"set {number}: {type(error).__name__}: {error}"[:1500])
                if options.sets == 1:
                    traceback.print_exc()
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    seconds = time.perf_counter() - start
    print(f"{options.sets - failed} of {options.sets} sets were read back as written, in {seconds:.0f} s: {counts}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
