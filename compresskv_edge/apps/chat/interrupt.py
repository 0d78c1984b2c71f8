"""Ctrl-C as a wish that is granted at the next safe moment: between two tokens, or between two nodes of a graph."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from ...runtime.stop import StopFlag


class Stop:
    """`requested` is set by Ctrl-C, or by whoever wants the answer to end; `flag` ends llama_decode as well."""

    def __init__(self) -> None:
        self.flag = StopFlag()

    @property
    def requested(self) -> bool:
        """Somebody wants it to end."""
        return self.flag.is_up

    def request(self, *_: object) -> None:
        """For signal.signal as well."""
        self.flag.up()

    def forget(self) -> None:
        """What comes now is wanted."""
        self.flag.down()


@contextlib.contextmanager
def on_ctrl_c(stop: Stop) -> Iterator[Stop]:
    """Within the block Ctrl-C sets `stop`; a second one raises KeyboardInterrupt, should the first not be heard."""
    stop.forget()
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
