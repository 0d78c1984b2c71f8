"""One process at a time: a lock on a file, which the system takes back when its holder dies."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Callable

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold the lock `path` for the block; `on_wait` is called once if another process or thread holds it.

    The file stays: whoever removed it could not know who waits for it.
    """
    with path.open("ab") as file:
        if not _try(file):
            on_wait()
            while not _try(file):
                time.sleep(_POLL_SECONDS)
        yield  # closing the file releases the lock


if sys.platform == "win32":
    import msvcrt

    def _try(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
