"""Keeps what is typed off a screen that is drawn again and again, and out of the next question."""

import os
import sys
import termios


class QuietKeys:
    """Turns the terminal's echo off and on again. Does nothing without a terminal to type on."""

    def __init__(self) -> None:
        self._before: list[int | list[bytes | int]] | None = None

    def hush(self) -> None:
        """Show no more what is typed. Idempotent."""
        if self._before is not None or not _in_front():
            return
        modes = termios.tcgetattr(sys.stdin)
        self._before = list(modes)
        modes[3] &= ~termios.ECHO  # Ctrl-C and Ctrl-Z still send their signals
        termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)

    def restore(self) -> None:
        """Show it again; what was typed meanwhile answers nothing. Idempotent."""
        if self._before is None:
            return
        before, self._before = self._before, None
        if _in_front():
            termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)


def _in_front() -> bool:
    """Return whether stdin is the terminal of this process, and it may set it without a stop."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # the terminal of other processes
        return False
