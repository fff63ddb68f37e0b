"""Processes that start others."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent() -> None:
    """Have this process terminated when the one that started it ends, even by `kill -9`.

    Only Linux can do so; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
