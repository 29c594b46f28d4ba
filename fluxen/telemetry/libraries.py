"""What libraries and threads say goes into the log as well: nothing else may write to where the log goes."""

from __future__ import annotations

import logging
import threading
from typing import Final

from fluxen.telemetry.log import Log

_LEVELS: Final = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class Libraries(logging.Handler):
    """Hands on what comes by Python's logging and warnings, and the last words of a thread."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for number, name in _LEVELS if record.levelno >= number), "debug")
        fields = {"message": record.getMessage(), "library": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            self.log.bug("library", record.exc_info[1], **fields)
        else:
            self.log.notice("library", about=record.name, level=level, **fields)


def follow(log: Log) -> None:
    """From now on `log` is where libraries of this process speak."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, Libraries)]:
        root.removeHandler(handler)
    root.addHandler(Libraries(log))
    logging.captureWarnings(True)

    def last_words(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None:
            log.bug("crashed", what.exc_value, thread=what.thread.name if what.thread else None)

    threading.excepthook = last_words
