"""What is said beside results: loggers "compresskv_edge" and "llama.cpp", on stderr for the command line."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from . import library

# enum ggml_log_level as in ggml.h (the binding's own table is of an older one); its INFO is for programmers
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5  # of the line before

_log = logging.getLogger("llama.cpp")

if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler  # not generic before Python 3.11


class _Stderr(_Handler):
    """Writes to what sys.stderr is at that moment: a live display may stand in front of it.

    While it loads a model, the binding sends stdout and stderr to nowhere, and with them the reason of a failure.
    """

    def emit(self, record: logging.LogRecord) -> None:
        muted = getattr(sys.stderr, "name", "") == os.devnull
        self.stream = _stderr_of_old() if muted else sys.stderr
        super().emit(record)


@functools.lru_cache(maxsize=1)
def _stderr_of_old() -> TextIO:
    """A way to stderr that stays when its descriptor is sent elsewhere."""
    try:
        return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    except OSError:  # there is none
        return sys.stderr


def configure(verbose: int = 0, *, quiet: bool = False) -> None:
    """Notes and warnings to stderr: 0 warnings, 1 what we do, 2 llama.cpp's log as well; quiet: errors only."""
    ours, theirs = logging.getLogger("compresskv_edge"), _log
    for logger in (ours, theirs):
        for old in [handler for handler in logger.handlers if isinstance(handler, _Stderr)]:
            logger.removeHandler(old)
        handler = _Stderr()
        handler.setFormatter(
            logging.Formatter("compresskv: %(message)s" if logger is ours else "%(name)s: %(message)s")
        )
        logger.addHandler(handler)
    ours.setLevel(logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    # an error of llama.cpp becomes an exception, whose message tells it
    theirs.setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL if quiet else logging.ERROR)
    # what pypdf says of a broken file stands in our error
    logging.getLogger("pypdf").setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL)
    warnings.showwarning = _warn
    _stderr_of_old()


def is_quiet() -> bool:
    """`configure` was asked to show no progress."""
    return logging.getLogger("compresskv_edge").level >= logging.ERROR


def _warn(message: Any, *_: Any, **__: Any) -> None:
    logging.getLogger("compresskv_edge").warning("%s", message)


class _Lines:
    """llama.cpp logs pieces; a record is a whole line."""

    def __init__(self) -> None:
        self.level, self.text = logging.DEBUG, ""

    def take(self, level: int, text: str) -> None:
        if level != _CONTINUED:
            self.level = _LEVELS.get(level, logging.DEBUG)
        *lines, self.text = (self.text + text).split("\n")
        for line in lines:
            if line.strip(" ."):
                _log.log(self.level, "%s", line.rstrip())


@functools.lru_cache(maxsize=1)
def route_llama_cpp() -> None:
    """Send llama.cpp's log to logging from now on, whatever `verbose` says. Loads the library; once is enough."""
    library.offer()
    import llama_cpp

    lines = _Lines()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def callback(level: int, text: bytes, _: object) -> None:
        lines.take(level, text.decode("utf-8", errors="replace"))

    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    _keep_alive.append(callback)


_keep_alive: list[object] = []  # C holds a pointer to it
