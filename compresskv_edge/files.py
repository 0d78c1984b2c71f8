"""Files from strangers and files for users: JSON that cannot hurt, and files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import reprlib
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

Source = Union[str, "os.PathLike[str]"]

_DIGITS = 40  # of an integer: Python takes quadratic time for millions of them
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class NotAFile(OSError):
    """A device, pipe or folder, where a file was to be."""

    def __init__(self, path: Source) -> None:
        super().__init__(0, "it is a folder, a device or a pipe, not a file", os.fspath(path))


def check_file(path: Source) -> None:
    """Raise NotAFile, or FileNotFoundError, before a pipe is waited for or a device is read without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotAFile(path)


def read_bytes(path: Source, n_max: int) -> bytes:
    """What a file or a pipe holds. Raises OSError, ValueError for more than n_max bytes."""
    with open(path, "rb") as file:
        data = file.read(n_max + 1)
    if len(data) > n_max:
        raise ValueError(f"more than {n_max} bytes")
    return data


#
# JSON
#


def parse_json(data: Union[str, bytes]) -> Any:
    """As json.loads, but for integers of endless length. Raises ValueError, and nothing else."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_int=_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def check_size(value: Any, n_values: int, depth: int = 16) -> None:
    """Raise ValueError for parsed JSON of more values, or nested more deeply: before each of them costs an error."""
    level = [value]
    for _ in range(depth):
        level = [item for each in level if isinstance(each, (list, dict, tuple)) for item in _items(each)]
        n_values -= len(level)
        if n_values < 0:
            raise ValueError("too many values")
        if not level:
            return
    raise ValueError("nested too deeply")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def short(value: Any) -> str:
    """repr() of what may be endless or nested without end, for a message."""
    return _SHORT.repr(value)[:60]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 20
_SHORT.maxlevel = 3


#
# writing
#


def replace(path: Source, pieces: Iterable[Any], *, private: bool = False) -> None:
    """Write bytes; readers see the old file or the new one, never a part, and a kill at any moment leaves one of them.

    A link stays a link: its target is replaced, with the mode it has. A new file is as the umask says, or its owner's
    alone if `private`. Raises OSError, and what was there is unchanged.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o600 if private else 0o666), "wb") as file:
            if mode is not None:
                os.chmod(temporary, mode)
            _write(file, pieces)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def replace_text(path: Source, text: str) -> None:
    """The same with UTF-8 text."""
    replace(path, [text.encode("utf-8", errors="surrogatepass")])


def write_json(path: Source, value: Any) -> None:
    """Results for people and programs: their folder is made if it is missing. Raises OSError."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(value, indent=1) + "\n")


def _write(file: BinaryIO, pieces: Iterable[Any]) -> None:
    """On the disk before its name is."""
    for piece in pieces:
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())


def _mode(target: Path) -> Optional[int]:
    """Of the file that is replaced, None for a new one. Raises NotAFile."""
    try:
        check_file(target)
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def _sync_folder(folder: Path) -> None:
    """The file is replaced by now: a system that cannot do this (Windows, some network disks) is no reason to fail."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
