"""A flag that ends decoding, from any thread and in the middle of a long prompt, on backends that can be aborted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..engine.flag import Flag
from .binding import LoadedModel, llama_cpp


class StopFlag:
    """Down at first. Up, it ends the decoding of the models that watch it: the base class raises RuntimeError then."""

    def __init__(self) -> None:
        self._flag = Flag()

    @property
    def is_up(self) -> bool:
        """Decoding is to end."""
        return self._flag.is_set

    def up(self) -> None:
        """End what is running, and what begins before it is down again."""
        self._flag.set(True)

    def down(self) -> None:
        """Decoding may go on."""
        self._flag.set(False)

    def watched_by(self, llm: LoadedModel) -> None:
        """From now on the flag ends the model's decoding; it must live as long as the model does."""
        # ggml asks after every node of a graph. A Python callback would have to wait for the interpreter's lock each
        # time, which other threads may hold
        asks = llama_cpp.ggml_abort_callback(self._flag.callback)
        llama_cpp.llama_set_abort_callback(llm.ctx, asks, self._flag.data)

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
