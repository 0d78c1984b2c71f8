"""A flag that ends decoding, from any thread and in the middle of a long prompt, on backends that can be aborted."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from collections.abc import Iterator

from .binding import LoadedModel, llama_cpp


class StopFlag:
    """Down at first. Up, it ends the decoding of the models that watch it: the base class raises RuntimeError then."""

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)

    @property
    def is_up(self) -> bool:
        """Decoding is to end."""
        return self._byte[0] != b"\0"

    def up(self) -> None:
        """End what is running, and what begins before it is down again."""
        self._byte[0] = b"\1"

    def down(self) -> None:
        """Decoding may go on."""
        self._byte[0] = b"\0"

    def watched_by(self, llm: LoadedModel) -> None:
        """From now on the flag ends the model's decoding; it must live as long as the model does."""
        # ggml asks after every node of a graph. A Python callback would have to wait for the interpreter's lock each
        # time, which other threads may hold; strlen is a C function that reads one byte: 0 goes on, "\1" stops.
        c_library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        asks = ctypes.cast(c_library.strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(llm.ctx, asks, ctypes.cast(self._byte, ctypes.c_void_p))

    @contextlib.contextmanager
    def watching(self, llm: LoadedModel) -> Iterator[None]:
        """The same within the block; what llama.cpp says of an end that was wanted is not logged."""
        log = logging.getLogger("llama.cpp")

        def unless_wanted(_: logging.LogRecord) -> bool:  # an abort is an error to llama.cpp
            return not self.is_up

        self.watched_by(llm)
        log.addFilter(unless_wanted)
        try:
            yield
        finally:
            log.removeFilter(unless_wanted)
            llama_cpp.llama_set_abort_callback(llm.ctx, llama_cpp.ggml_abort_callback(0), None)
