"""Session files as a stranger may write them: anything in the header and the parts, and every digest right."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

Parts = Mapping[str, bytes]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def sums(parts: Parts) -> Any:
    """The `parts` of a header."""
    return [{"name": name, "n_bytes": len(part), "blake2b": _digest(part).hex()} for name, part in parts.items()]


def pack(header: Any, parts: Parts) -> bytes:
    """The file; a header of bytes stays as it is, an object gets its `parts`, unless it has some."""
    named = {"parts": sums(parts), **header} if isinstance(header, dict) else header
    text = header if isinstance(header, bytes) else json.dumps(named).encode()
    offset = 24 + len(text) + 32
    body = b""
    for part in parts.values():
        body += bytes(-(offset + len(body)) % 64) + part
    start = struct.pack("<8sIIQ", b"CKVSESS\n", 1, len(text), offset + len(body))
    return start + text + _digest(start + text) + body


def unpack(path: Path) -> Tuple[Dict[str, Any], Dict[str, bytes]]:
    """(header without `parts`, parts) of a good file."""
    data = path.read_bytes()
    n_header = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[24 : 24 + n_header])
    at, parts = 24 + n_header + 32, {}
    for part in header.pop("parts"):
        at += -at % 64
        parts[part["name"]] = data[at : at + part["n_bytes"]]
        at += part["n_bytes"]
    return header, parts
