import pytest

from datamodules.threads import in_threads


@pytest.mark.parametrize("count", [0, 1, 17, 5001])
def test_each_position_is_processed_once(count: int) -> None:
    seen: list[int] = []
    in_threads(seen.append, count, "")
    assert sorted(seen) == list(range(count))
