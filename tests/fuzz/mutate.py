"""Changes of good inputs: JSON values, bytes, and the integers in bytes."""

from __future__ import annotations

import marshal
import random
import struct
from typing import Any, List, Optional, Sequence, Tuple

INTS = (
    0, 1, -1, 2, 7, 8, 255, 256, 65535, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 31), -(1 << 63), 10**30,
)  # fmt: skip
OTHERS: Tuple[Any, ...] = (
    None, True, False, "", "x", "\0", "\ud800", "../x", "/dev/zero", "y" * 5000, 0.0, -0.0, 0.5, 1.0, 1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], [{}], {"": 0}, [0] * 1000,
)  # fmt: skip
TOKENS = (
    b"[" * 3000,
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"null",
    b"NaN",
    b"1e999",
    b"9" * 60,
    b"\\ud800",
    b"\xff",
    b"\0",
    b"-",
)


def json_value(rng: random.Random, value: Any) -> Any:
    """A copy with one to four changes."""
    value = _copy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change(rng, value)
    return value


def _copy(value: Any) -> Any:
    return marshal.loads(marshal.dumps(value))  # ten times as fast as copy.deepcopy


def _change(rng: random.Random, value: Any) -> Any:
    place = _place(rng, value)
    if place is None or rng.random() < 0.01:
        return _other(rng, value)
    parent, key = place
    kind = rng.random()
    if kind < 0.6:
        parent[key] = _other(rng, parent[key])
    elif kind < 0.75:
        del parent[key]
    elif kind < 0.85:
        elsewhere = _place(rng, value)
        parent[key] = _copy(elsewhere[0] if elsewhere else value)
    elif isinstance(parent, dict):
        parent[rng.choice(("", "more", str(key) + "x", "rpc_servers"))] = _other(rng, parent[key])
    else:
        parent.insert(key, _copy(rng.choice(parent)))
    return value


def _place(rng: random.Random, value: Any) -> Optional[Tuple[Any, Any]]:
    """(container, key) of a value; None if there is none. What lies near the root is found more often than one of a
    thousand numbers."""
    found = None
    while isinstance(value, (dict, list)) and value and (found is None or rng.random() < 0.8):
        key: Any = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        found, value = (value, key), value[key]
    return found


def _other(rng: random.Random, value: Any) -> Any:
    kind = rng.random()
    if isinstance(value, bool) or kind < 0.3:
        return _copy(rng.choice(OTHERS))
    if isinstance(value, int) and kind < 0.8:
        return value + rng.choice((-1, 1, -8, 8, 1000))
    if isinstance(value, float) and kind < 0.8:
        return value * rng.choice((-1.0, 0.0, 1e-9, 1e9, 1e300))
    if isinstance(value, str) and kind < 0.8:
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("", "x", "\0", "0", "\u00e9", "\ud800", value)) + value[at + rng.randrange(3) :]
    if isinstance(value, list) and value and kind < 0.8:
        return rng.choice((value[1:], value[:-1], value + value, value[::-1], [value[0]] * len(value)))
    return rng.choice(INTS)


def data(rng: random.Random, raw: bytes, where: Sequence[int] = (), n_special: int = 0) -> bytes:
    """A copy with one to four changes of its bytes or integers. where: offsets of 4-byte integers, worth most changes;
    else the first n_special bytes are.
    """
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = (
            rng.choice(where) if where and rng.random() < 0.8 else rng.randrange(max(_end(rng, len(out), n_special), 1))
        )
        _change_bytes(rng, out, at)
    return bytes(out)


def _end(rng: random.Random, n: int, n_special: int) -> int:
    return min(n, n_special) if n_special and rng.random() < 0.9 else n


def _change_bytes(rng: random.Random, out: bytearray, at: int) -> None:
    kind = rng.random()
    if kind < 0.2:
        out[at : at + 1] = bytes([rng.randrange(256)])
    elif kind < 0.3:
        out[at : at + 1] = bytes([out[at] ^ 1 << rng.randrange(8)]) if at < len(out) else b""
    elif kind < 0.6:
        out[at : at + 4] = struct.pack("<I", rng.choice(INTS) & 0xFFFFFFFF)
    elif kind < 0.7:
        out[at : at + 8] = struct.pack("<Q", rng.choice(INTS) & 0xFFFFFFFFFFFFFFFF)
    elif kind < 0.85 and at + 4 <= len(out):
        value = struct.unpack_from("<I", out, at)[0] + rng.choice((-1, 1, 8, -8, 256))
        out[at : at + 4] = struct.pack("<I", value & 0xFFFFFFFF)
    else:
        _cut_or_repeat(rng, out, at)


def _cut_or_repeat(rng: random.Random, out: bytearray, at: int) -> None:
    n = rng.choice((1, 4, 8, 32, 1000))
    kind = rng.random()
    if kind < 0.3:
        del out[at : at + n]
    elif kind < 0.6:
        out[at:at] = out[at : at + n]
    elif kind < 0.7:
        del out[at:]
    else:
        out[at:at] = rng.choice(TOKENS)


def offsets(spans: Sequence[Tuple[int, int]]) -> List[int]:
    """Offsets of all 4-byte integers in (start, end)."""
    return [at for start, end in spans for at in range(start, end, 4)]
