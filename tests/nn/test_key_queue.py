import pytest
import torch

from lit_cv.nn import KeyQueue


def test_newest_keys_replace_oldest() -> None:
    queue = KeyQueue(5, 1)
    torch.testing.assert_close(queue.keys.abs(), torch.ones(5, 1))
    for start in range(0, 9, 3):
        queue.push(torch.arange(start, start + 3.0)[:, None])
    assert sorted(queue.keys.flatten().tolist()) == [4, 5, 6, 7, 8]
    assert int(queue.position) == 9 % 5
    queue.push(torch.arange(20.0, 32.0)[:, None])
    assert sorted(queue.keys.flatten().tolist()) == [27, 28, 29, 30, 31]


def test_error_names_size() -> None:
    with pytest.raises(ValueError, match="size=0"):
        KeyQueue(0, 4)
