"""The file of a session: a header and checked parts, written so that a reader sees the old file or the new one.

Layout (docs/session-format.md), integers little-endian:

    0   8  magic "CKVSESS\\n"
    8   4  format version (uint32)
    12  4  n, length of the header (uint32)
    16  8  length of the file (uint64)
    24  n  header, JSON
    +  32  BLAKE2b-256 of everything before
           parts, each at a multiple of 64 with zeros before it, BLAKE2b-256 in the header
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from ...errors import SessionError

FORMAT_VERSION = 1

_MAGIC = b"CKVSESS\n"
_START = struct.Struct("<8sIIQ")
_ALIGN = 64
_DIGEST_BYTES = 32

Bytes = npt.NDArray[np.uint8]


def write(path: str | os.PathLike[str], header: Mapping[str, Any], parts: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a session; a kill at any moment leaves the old file or the new one. Raises SessionError."""
    pieces = _layout(header, {name: np.ascontiguousarray(part) for name, part in parts.items()})
    target = Path(path)
    try:
        # a link stays a link: its target is replaced
        _replace(Path(os.path.realpath(target)), pieces)
    except OSError as error:
        raise SessionError(
            f"cannot write session {str(target)!r}: {error.strerror or error}; what was there before is unchanged"
        ) from error


def read(path: str | os.PathLike[str]) -> Tuple[Dict[str, Any], Dict[str, Bytes]]:
    """(header, parts) of a session, every byte checked; the parts are views of the mapped file. Raises SessionError."""
    name = f"session {str(path)!r}"
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _START.size:
                raise SessionError(f"{name} is {size} bytes, no session of compresskv_edge: give another file")
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise SessionError(f"cannot read {name}: {error.strerror}; give a file that save_session wrote") from error
    return _parse(data, name)


#
# layout
#


def _digest(*blocks: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for block in blocks:
        digest.update(block)
    return digest.digest()


def _padding(offset: int) -> int:
    return -offset % _ALIGN


def _layout(header: Mapping[str, Any], parts: Mapping[str, npt.NDArray[Any]]) -> List[Any]:
    """The blocks of the file in order."""
    sums = [
        {"name": name, "n_bytes": part.nbytes, "blake2b": _digest(_raw(part)).hex()} for name, part in parts.items()
    ]
    text = json.dumps({**header, "parts": sums}, allow_nan=False).encode()
    pieces: List[Any] = []
    offset = _START.size + len(text) + _DIGEST_BYTES
    for part in parts.values():
        pieces += [bytes(_padding(offset)), _raw(part)]
        offset += _padding(offset) + part.nbytes
    start = _START.pack(_MAGIC, FORMAT_VERSION, len(text), offset)
    return [start, text, _digest(start, text), *pieces]


def _raw(part: npt.NDArray[Any]) -> memoryview:
    return part.reshape(-1).view(np.uint8).data


def _parse(data: Bytes, name: str) -> Tuple[Dict[str, Any], Dict[str, Bytes]]:
    damaged = f"{name} is damaged: copy it again, or save the session anew"
    magic, version, n_header, n_bytes = _START.unpack(data[: _START.size].tobytes())
    if magic != _MAGIC:
        raise SessionError(f"{name} is no session of compresskv_edge: give a file that save_session wrote")
    if version != FORMAT_VERSION:
        raise SessionError(
            f"{name} has format {version}, this version of compresskv_edge reads {FORMAT_VERSION}: install the version "
            "that wrote it (pip install --upgrade compresskv-edge for a newer one), or save the session anew"
        )
    if n_bytes != len(data):
        raise SessionError(f"{name} has {len(data)} of {n_bytes} bytes: copy it again, or save the session anew")
    end = _START.size + n_header
    if end + _DIGEST_BYTES > len(data) or _digest(data[:end]) != data[end : end + _DIGEST_BYTES].tobytes():
        raise SessionError(damaged)
    header = json.loads(data[_START.size : end].tobytes())
    return header, dict(_checked_parts(data, end + _DIGEST_BYTES, header["parts"], damaged))


def _checked_parts(
    data: Bytes, offset: int, sums: Sequence[Mapping[str, Any]], damaged: str
) -> Iterator[Tuple[str, Bytes]]:
    for part in sums:
        gap = data[offset : offset + _padding(offset)]
        offset += len(gap)
        block = data[offset : offset + part["n_bytes"]]
        offset += len(block)
        if gap.any() or _digest(block).hex() != part["blake2b"]:
            raise SessionError(damaged)
        yield part["name"], block
    if offset != len(data):
        raise SessionError(damaged)


#
# writing
#


def _replace(target: Path, pieces: Sequence[Any]) -> None:
    """Through a new file in the same folder, on the disk before its name is."""
    fd, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.chmod(temporary, _mode(target))
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _mode(target: Path) -> int:
    """Of the file that is replaced; a new one is private, as conversations are."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o600


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
