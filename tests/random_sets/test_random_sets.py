"""The first sets that `scripts/try_random_sets.py` writes and reads back."""

from pathlib import Path

import pytest

from tests.random_sets.checks import KINDS, check_set


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has no images of")
@pytest.mark.parametrize("kind", KINDS)
def test_random_sets_round_trip(tmp_path: Path, kind: str) -> None:
    for number in range(KINDS.index(kind), 10 * len(KINDS), len(KINDS)):
        (tmp_path / str(number)).mkdir()
        assert check_set(number, tmp_path / str(number)) == kind
