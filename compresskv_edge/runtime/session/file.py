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

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from ... import files
from ...errors import SessionError

FORMAT_VERSION = 1

_MAGIC = b"CKVSESS\n"
_START = struct.Struct("<8sIIQ")
_ALIGN = 64
_DIGEST_BYTES = 32
_MAX_PARTS = 16
_MAX_VALUES = 1 << 22
MAX_HEADER_BYTES = 16 << 20  # a profile has up to 2 MB

Bytes = npt.NDArray[np.uint8]


def write(path: str | os.PathLike[str], header: Mapping[str, Any], parts: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a session; a kill at any moment leaves the old file or the new one. Raises SessionError."""
    pieces = _layout(header, {name: np.ascontiguousarray(part) for name, part in parts.items()})
    try:
        files.replace(path, pieces, private=True)  # as conversations are
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or error
        raise SessionError(
            f"cannot write session {os.fspath(path)!r}: {why}; what was there before is unchanged"
        ) from error


def read(path: str | os.PathLike[str]) -> Tuple[Dict[str, Any], Dict[str, Bytes]]:
    """(header, parts) of a session, every byte checked; the parts are views of the mapped file. Raises SessionError.

    The header is any JSON object; it no longer names the parts.
    """
    name = f"session {os.fspath(path)!r}"
    try:
        files.check_file(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _START.size:
                raise SessionError(f"{name} is {size} bytes, no session of compresskv_edge: give another file")
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, OverflowError, ValueError) as error:
        if isinstance(error, SessionError):
            raise
        why = getattr(error, "strerror", None) or error
        raise SessionError(f"cannot read {name}: {why}; give a file that save_session wrote") from error
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
    if len(text) > MAX_HEADER_BYTES:
        raise SessionError(
            f"the session's header is {len(text)} bytes, {MAX_HEADER_BYTES} at most: protect fewer tokens"
        )
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
    header = _header(data[_START.size : end].tobytes(), name)
    parts = _sums(header.pop("parts", None), f"{name} has a header that save_session did not write: parts")
    return header, dict(_checked_parts(data, end + _DIGEST_BYTES, parts, damaged))


def _header(text: bytes, name: str) -> Dict[str, Any]:
    try:
        header = files.parse_json(text) if len(text) <= MAX_HEADER_BYTES else None
        files.check_size(header, _MAX_VALUES)
    except ValueError as error:
        raise SessionError(
            f"{name} has a header that save_session did not write ({error}): save the session anew"
        ) from error
    if not isinstance(header, dict):
        raise SessionError(f"{name} has a header that save_session did not write: give another file")
    return header


def _sums(parts: Any, wrong: str) -> List[Tuple[str, int, str]]:
    """(name, n_bytes, blake2b) of each part."""
    if not isinstance(parts, list) or len(parts) > _MAX_PARTS:
        raise SessionError(wrong)
    found = []
    for part in parts:
        if not isinstance(part, dict) or set(part) != {"name", "n_bytes", "blake2b"}:
            raise SessionError(wrong)
        name, n_bytes, digest = part["name"], part["n_bytes"], part["blake2b"]
        if not (type(name) is str and type(n_bytes) is int and n_bytes >= 0 and type(digest) is str):
            raise SessionError(wrong)
        found.append((name, n_bytes, digest))
    if len({name for name, _, _ in found}) < len(found):
        raise SessionError(wrong)
    return found


def _checked_parts(
    data: Bytes, offset: int, sums: Sequence[Tuple[str, int, str]], damaged: str
) -> Iterator[Tuple[str, Bytes]]:
    for name, n_bytes, digest in sums:
        gap = data[offset : offset + _padding(offset)]
        offset += len(gap)
        block = data[offset : offset + n_bytes]
        offset += len(block)
        if gap.any() or _digest(block).hex() != digest:
            raise SessionError(damaged)
        yield name, block
    if offset != len(data):
        raise SessionError(damaged)
