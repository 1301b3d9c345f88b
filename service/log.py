"""Logs: one JSON object a line on standard error. Never a file name, a path, a header, metadata or a pixel.

Nobody waits for whoever reads them: lines that find no room are lost, and the next one tells how many.
"""

import json
import logging
import os
import select
import sys
import warnings
from datetime import UTC, datetime
from typing import TextIO

_logger = logging.getLogger("dermserve")
_ROOM_BYTES = 4096  # what a pipe takes at least when Linux says that it has room
_INNERMOST = 40  # places of a traceback: a line stays below what a pipe that has room takes at once


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line; fields given as `extra={"fields": ...}` stand beside the message."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            # Where it happened, without the message: libraries quote the data they fail on.
            line |= {"error": record.exc_info[0].__name__, "traceback": _places(record)}
        return json.dumps(line)


class _NeverWaits(logging.StreamHandler[TextIO]):
    """A reader that stands still (a pager, a log driver in trouble) would stop the event loop, and every caller."""

    _lost = 0
    _room_bytes = 0  # that can be written before the system has to be asked again

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        try:
            if self._lost:
                record.fields = {**getattr(record, "fields", {}), "lines_lost_before": self._lost}
            line = self.format(record) + self.terminator
            if len(line) > self._room_bytes:
                self._room_bytes = _ROOM_BYTES if _has_room(self.stream) else 0
            if not self._room_bytes:
                self._lost += 1
                return
            self._room_bytes = max(self._room_bytes - len(line), 0)
            self._lost = 0
            self.stream.write(line)  # ASCII: a character is a byte
            self.flush()
        except Exception:
            self.handleError(record)


def _has_room(stream: TextIO) -> bool:
    """Whether a line can be written without waiting. Linux tells it of pipes, sockets and terminals alike."""
    if sys.platform != "linux":
        return True
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except (OSError, ValueError):  # no file, or closed: whoever writes to it is told
        return True
    return bool(poll.poll(0))


def configure_logging(level: str) -> None:
    """Send everything, uvicorn's lines too, through the JSON formatter."""
    # A line names neither thread nor process: not asking for them makes a record cheaper (Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _NeverWaits(sys.stderr)
    handler.setFormatter(_JsonLines())
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata of callers' pictures: neither news nor ours to log
    logging.captureWarnings(True)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("uvicorn.access").disabled = True  # it logs paths and addresses; the middleware logs instead


def keep_native_lines_out() -> None:
    """From now on only this module writes to standard error.

    libtiff writes a line of its own for each damaged picture: it is no JSON, and it may quote the picture's metadata.
    What Python itself reports, an uncaught exception too, goes where it went.
    """
    ours = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(ours)
    sys.stderr = ours


def log(level: int, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
    """Write one line. `fields` must be free of patient data: request id, route, status, times."""
    if not _logger.isEnabledFor(level):
        return
    # Not Logger.log, which walks the stack for the caller's file and line.
    caught = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info else None
    record = logging.LogRecord(_logger.name, level, "", 0, event, (), caught)
    record.fields = fields
    _logger.handle(record)


def _places(record: logging.LogRecord) -> list[str]:
    places, trace = [], record.exc_info[2] if record.exc_info else None
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-_INNERMOST:]
