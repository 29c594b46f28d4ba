"""A command in the foreground: it has the terminal as if it had been started without us, and we outlive it.

It shares our process group, so the terminal's keys reach it by themselves: Ctrl-C and Ctrl-\\ are for it and leave us
waiting, Ctrl-Z stops both. What is sent to us alone (SIGTERM from a supervisor, SIGHUP) is handed on to it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

_KEYS = frozenset({signal.SIGINT, signal.SIGQUIT})
"""A terminal sends these to the whole group."""
_TOLD = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
_WAITED_FOR = frozenset({*_KEYS, *_TOLD, signal.SIGCHLD})
_OURS_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them for itself; a command has them as they should be."""


def wait_for(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the command to its end; its exit code, 128 + N when signal N ended it.

    Raises OSError when it can't be started. Afterwards Ctrl-C is ignored for the rest of this process: the one that
    ended the command must not end what comes after it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have ignored it: no child could be awaited
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        pid = os.posix_spawnp(command[0], list(command), env, setsigmask=before, setsigdef=_OURS_IGNORED)
        status = _until_it_ends(pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        while (signal.sigpending() & _TOLD) - before:  # they came for the command
            signal.sigwait(_TOLD)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _until_it_ends(pid: int) -> int:
    while True:
        number = signal.sigwait(_WAITED_FOR)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if ended and os.WIFSTOPPED(status):
                if os.WSTOPSIG(status) != signal.SIGTTOU and _has_terminal():
                    os.killpg(os.getpgrp(), signal.SIGTSTP)  # it stopped itself: the shell waits for us
            elif ended:
                return status
        elif number in _TOLD or not _has_terminal():
            os.kill(pid, number)


def _has_terminal() -> bool:
    """Whether our group is the one that the terminal's keys go to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
