"""The text of a PDF, read in a process of its own: a broken or hostile file can neither hang nor kill who asks.

The process is this file, run with -m. It reads the PDF from its standard input and writes the text of the pages, a JSON
list, to its standard output. Its time is limited everywhere, its memory on Linux and macOS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, List

from ...errors import ChatError

_log = logging.getLogger(__name__)
_MAX_TEXT_CHARS = 64 << 20  # more than any context
_LOCKED, _UNREADABLE, _MISSING, _TOO_LARGE, _NO_CRYPTO = 3, 4, 5, 6, 7  # exit statuses
_SAID = {
    _LOCKED: "is locked with a password: save a copy without one",
    _UNREADABLE: "is no PDF that pypdf can read: convert it to text",
    _MISSING: 'needs pypdf to be read: pip install "compresskv-edge[chat]"',
    _NO_CRYPTO: 'is encrypted with AES and needs cryptography to be read: pip install "compresskv-edge[chat]"',
    _TOO_LARGE: "takes too much memory to be read: convert it to text",
}


@dataclass(frozen=True)
class Limits:
    """Of the process."""

    seconds: float = 600.0
    memory_bytes: int = 1 << 30

    @property
    def command(self) -> Sequence[str]:
        """How to start it."""
        return [sys.executable, "-m", __name__, str(self.seconds), str(self.memory_bytes)]


def pages_of(content: bytes, limits: Limits = Limits()) -> List[str]:
    """The text of each page. Raises ChatError with the reason and the remedy, which fit after the file's name."""
    # Python looks for modules where it is started: in a folder that holds none
    with tempfile.TemporaryDirectory(prefix="compresskv-") as empty, _started(limits, empty) as process:
        try:
            out, errors = process.communicate(content, limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise too_slow(limits) from error
        finally:
            process.kill()
    return outcome(process.returncode, out, errors)


def _started(limits: Limits, folder: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(limits.command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder)


def too_slow(limits: Limits) -> ChatError:
    """The process did not end in time."""
    return ChatError(f"took more than {limits.seconds:g} s to be read: convert it to text")


def outcome(status: int, out: bytes, errors: bytes) -> List[str]:
    """What the ended process wrote, or the ChatError that its exit status stands for."""
    if status == 0:
        return list(json.loads(out))
    level = logging.INFO if status in _SAID else logging.WARNING
    _log.log(level, "the process that read a PDF ended with status %d: %s", status, errors.decode("utf-8", "replace"))
    # killed by the system, or at its limit, it has no status of its own
    raise ChatError(_SAID.get(status, _SAID[_TOO_LARGE]))


#
# in the process
#


def main(seconds: str, memory_bytes: str) -> int:
    """Standard input to standard output; the exit status says what is wrong."""
    content = sys.stdin.buffer.read()
    _limit(float(seconds), int(memory_bytes))
    try:
        pages = _read(content)
    except ImportError:
        return _MISSING
    except (MemoryError, RecursionError):
        return _TOO_LARGE
    except Exception as error:  # pypdf meets broken files with errors of many kinds
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return _NO_CRYPTO if type(error).__name__ == "DependencyError" else _UNREADABLE
    if pages is None:
        return _LOCKED
    if sum(map(len, pages)) > _MAX_TEXT_CHARS:
        return _TOO_LARGE
    sys.stdout.write(json.dumps(pages))
    return 0


def _read(content: bytes) -> Any:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    reader = pypdf.PdfReader(BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        return None
    return [page.extract_text().strip() for page in reader.pages]


def _limit(seconds: float, memory_bytes: int) -> None:
    """Of this process, for the rest of its life; whoever started it may be gone before it ends."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        lower(resource.RLIMIT_CPU, int(seconds) + 1)
        lower(resource.RLIMIT_AS, memory_bytes)  # macOS takes no notice of it
        lower(resource.RLIMIT_CORE, 0)
        threading.Thread(target=_watch_memory, args=(memory_bytes,), daemon=True).start()


def lower(kind: int, value: int) -> None:
    """A limit that is lower already stays."""
    import resource

    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (bound, bound))


def _watch_memory(memory_bytes: int) -> None:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < memory_bytes:
        time.sleep(0.05)
    os._exit(_TOO_LARGE)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
