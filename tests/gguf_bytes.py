"""GGUF files by hand, right or wrong: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import struct
from typing import Any, Sequence, Tuple

U8, U16, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 2, 4, 6, 7, 8, 9, 10
_FORMS = {U8: "B", U16: "H", U32: "I", F32: "f", BOOL: "?", U64: "Q"}

Field = Tuple[str, int, Any]  # key, type, value; of an array (type of its items, items)
TensorInfo = Tuple[str, Sequence[int], int, int]  # name, dims, type, offset


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_of(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        item_kind, items = value
        return struct.pack("<IQ", item_kind, len(items)) + b"".join(value_of(item_kind, item) for item in items)
    return struct.pack(f"<{_FORMS[kind]}", value)


def gguf(
    fields: Sequence[Field] = (),
    tensors: Sequence[TensorInfo] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    **counts: int,
) -> bytes:
    """A file; n_tensors and n_fields may be other numbers than there are."""
    n_tensors, n_fields = counts.get("n_tensors", len(tensors)), counts.get("n_fields", len(fields))
    out = struct.pack("<4sIQQ", b"GGUF", version, n_tensors, n_fields)
    for key, kind, value in fields:
        out += text(key) + struct.pack("<I", kind) + value_of(kind, value)
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return out + bytes(-len(out) % 32) + data


MODEL: Sequence[Field] = (
    ("general.architecture", STRING, "llama"),
    ("general.name", STRING, "small"),
    ("general.alignment", U32, 32),
    ("llama.block_count", U32, 2),
    ("llama.context_length", U32, 512),
    ("llama.embedding_length", U32, 64),
    ("llama.feed_forward_length", ARRAY, (U32, [96, 96])),
    ("llama.attention.head_count", U32, 4),
    ("llama.attention.head_count_kv", ARRAY, (U32, [2, 1])),
    ("llama.rope.freq_base", F32, 10000.0),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["<s>", "a", "b"])),
    ("tokenizer.ggml.scores", ARRAY, (F32, [0.0, 1.0, 2.0])),
    ("tokenizer.ggml.add_bos_token", BOOL, True),
)
TENSORS: Sequence[TensorInfo] = (
    ("token_embd.weight", (64, 3), 0, 0),
    ("blk.0.attn_q.weight", (64, 64), 8, 768),
    ("blk.0.attn_k.weight", (64, 32), 1, 5120),
    ("blk.0.attn_norm.weight", (64,), 0, 9216),
)
DATA = bytes(9216 + 256)
