"""SIGTERM ends the program by an exception."""

import os
import signal

import pytest

from lit_cv.cli.termination import Terminated, sigterm_raises


def _terminate_twice(cleaned_up: list[bool]) -> None:
    with sigterm_raises():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # `timeout` signals its child, then the process group
            cleaned_up.append(True)


def test_sigterm_is_raised_once() -> None:
    cleaned_up: list[bool] = []
    with pytest.raises(Terminated) as stopped:
        _terminate_twice(cleaned_up)
    assert stopped.value.code == 143
    assert cleaned_up == [True]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_existing_handler_is_kept() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
