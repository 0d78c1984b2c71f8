"""Ctrl-C as a wish that is granted at the next safe moment: between two tokens, or between two nodes of a graph."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ...runtime.llama import llama_cpp


class Stop:
    """`requested` is set by Ctrl-C, or by whoever wants the answer to end."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """For signal.signal as well."""
        self.requested = True


@contextlib.contextmanager
def on_ctrl_c(stop: Stop) -> Iterator[Stop]:
    """Within the block Ctrl-C sets `stop`; a second one raises KeyboardInterrupt, should the first not be heard."""
    stop.requested = False
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stop
        return

    def handle(*_: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.request()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def aborts_decoding(llm: Any, stop: Stop) -> Iterator[None]:
    """Within the block a stop ends llama_decode as well, on backends that can be aborted.

    The callback runs for every node of a graph, so it is for long prompts, not for single tokens.
    """

    aborted = llama_cpp.ggml_abort_callback(lambda _: stop.requested)
    llama_cpp.llama_set_abort_callback(llm.ctx, aborted, None)
    log = logging.getLogger("llama.cpp")

    def unless_wanted(_: logging.LogRecord) -> bool:  # an abort is an error to llama.cpp
        return not stop.requested

    log.addFilter(unless_wanted)
    try:
        yield
    finally:
        log.removeFilter(unless_wanted)
        llama_cpp.llama_set_abort_callback(llm.ctx, llama_cpp.ggml_abort_callback(0), None)
