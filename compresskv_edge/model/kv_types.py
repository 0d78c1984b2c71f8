"""Types of cached keys and values, by the names that llama.cpp's users know, and how much room they take."""

from __future__ import annotations

import math

import gguf

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q4_0")  # of those that a cache may have, the ones that we measure


def ggml_type(name: str) -> gguf.GGMLQuantizationType:
    """ "q8_0" -> GGMLQuantizationType.Q8_0, an int."""
    return gguf.GGMLQuantizationType[name.upper()]


def row_bytes(n_elements: int, name: str) -> int:
    """Size of one row of a K or V tensor."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type(name)]
    return math.ceil(n_elements / int(block)) * int(block_bytes)
