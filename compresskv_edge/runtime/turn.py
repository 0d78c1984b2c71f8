"""Whose turn it is: a `Llama` has one cache, so that one call or one stream uses it at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import EngineError


@dataclass(eq=False)
class _Hold:
    """A call or a stream that has the turn. A stream runs between two of its items only."""

    thread: int = field(default_factory=threading.get_ident)  # that runs it, or ran it last
    running: bool = True
    n_items: int = 0  # that were asked for
    n_seen: int = -1  # of them, when another call last looked

    def runs_elsewhere(self) -> bool:
        return self.running and self.thread != threading.get_ident()

    def blocks(self) -> bool:
        """A stream that this thread left open ends with its next call: to wait for it would be for ever."""
        return self.running or self.thread != threading.get_ident()


class CacheTurn:
    """Calls of one thread may call each other; those of other threads wait until a call, or a whole stream, is over.

    patience_s: for so long they wait for a stream from which nothing is read.
    """

    def __init__(self, patience_s: float = 60.0) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()  # re-entrant
        self._holder: Optional[_Hold] = None

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around what changes the cache. Raises EngineError where another thread's stream stands still."""
        if self._is_here():
            yield
            return
        hold = self._take()
        try:
            yield
        finally:
            self._release(hold)

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Around what leaves the text as it is: between two items of a stream, which goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._holder is None or not self._holder.runs_elsewhere())
            yield

    def stream(self, items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same items. The turn is taken with the first one, and given back at the end or by close().

        Raises EngineError where the stream is resumed after another call of its thread, which ended it.
        """
        if self._is_here():
            yield from items
            return
        hold, answer = self._take(), None
        try:
            while True:
                try:
                    item = items.send(answer)
                except StopIteration:
                    return
                self._pause(hold)
                answer = yield item
                self._resume(hold)
        finally:
            items.close()
            self._release(hold)

    def _is_here(self) -> bool:
        """This is a call within a call."""
        holder = self._holder
        return holder is not None and holder.running and not holder.runs_elsewhere()

    def _take(self) -> _Hold:
        with self._changed:
            while not self._changed.wait_for(self._is_free, self._patience_s):
                self._check_read(self._holder)
            self._holder = hold = _Hold()
            return hold

    def _is_free(self) -> bool:
        return self._holder is None or not self._holder.blocks()

    def _check_read(self, holder: Optional[_Hold]) -> None:
        """Raise EngineError if another thread's stream stands still: nobody may ever read on."""
        if holder is None or holder.running or holder.n_items != holder.n_seen:
            if holder is not None:
                holder.n_seen = holder.n_items
            return
        raise EngineError(
            f"another thread left a stream of this Llama open and has read nothing from it for {self._patience_s:g} s: "
            "read it to its end, or close() it"
        )

    def _pause(self, hold: _Hold) -> None:
        with self._changed:
            hold.running = False
            self._changed.notify_all()

    def _resume(self, hold: _Hold) -> None:
        with self._changed:
            if self._holder is not hold:
                raise EngineError(
                    "this stream is over: a later call used the same Llama, whose cache holds another text now. Read a "
                    "stream to its end first, or load a second Llama"
                )
            hold.thread, hold.running = threading.get_ident(), True
            hold.n_items += 1

    def _release(self, hold: _Hold) -> None:
        with self._changed:
            if self._holder is hold:
                self._holder = None
                self._changed.notify_all()
