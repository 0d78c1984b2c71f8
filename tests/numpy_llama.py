"""The llama architecture for one token, in NumPy and float32: an independent opinion on what the engine computes.

Written from the equations, not from llama.cpp: RMSNorm (arXiv:1910.07467), RoPE on adjacent pairs (arXiv:2104.09864),
grouped-query attention (arXiv:2305.13245), SwiGLU (arXiv:2002.05202). Weights are dequantised, activations are not
quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

Array = npt.NDArray[np.float32]


class NumpyLlama:
    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self._weights: dict[str, Array] = {  # matrices are (n_out, n_in)
            t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors
        }
        meta: dict[str, Any] = {
            name.removeprefix("llama."): field.contents()
            for name, field in reader.fields.items()
            if name.startswith("llama.")
        }
        self.n_layer: int = meta["block_count"]
        self._n_head: int = meta["attention.head_count"]
        self._n_head_kv: int = meta["attention.head_count_kv"]
        self._epsilon: float = meta["attention.layer_norm_rms_epsilon"]
        self._head_dim: int = meta.get("attention.key_length", meta["embedding_length"] // self._n_head)
        exponents = np.arange(0, self._head_dim, 2) / self._head_dim
        self._frequencies = meta["rope.freq_base"] ** -exponents / self._weights.get("rope_freqs.weight", 1.0)

    def logits(self, token: int, position: int, rows: Sequence[tuple[Array, Array]]) -> Array:
        """Logits after `token`, which attends to itself and to what each layer retained: (n_vocab,).

        rows: per layer, keys (after RoPE) and values, (n_head_kv, n, head_dim) each.
        """
        w = self._weights
        x = w["token_embd.weight"][token]
        for layer, (keys, values) in enumerate(rows):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm.weight"), position, keys, values)
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm.weight"))
        return w.get("output.weight", w["token_embd.weight"]) @ self._norm(x, "output_norm.weight")

    def _attention(self, layer: int, x: Array, position: int, keys: Array, values: Array) -> Array:
        q, k, v = ((self._weights[f"blk.{layer}.attn_{name}.weight"] @ x).reshape(-1, self._head_dim) for name in "qkv")
        k = self._rope(k, position).astype(np.float16).astype(np.float32)  # the cache is f16
        v = v.astype(np.float16).astype(np.float32)
        keys = np.concatenate([keys, k[:, None]], axis=1)
        values = np.concatenate([values, v[:, None]], axis=1)
        q = self._rope(q, position).reshape(self._n_head_kv, -1, self._head_dim)  # (n_head_kv, heads a group, head_dim)
        scores = np.einsum("ghd,gnd->ghn", q, keys) / np.sqrt(self._head_dim)
        out = np.einsum("ghn,gnd->ghd", _softmax(scores), values).reshape(-1)
        return self._weights[f"blk.{layer}.attn_output.weight"] @ out

    def _feed_forward(self, layer: int, x: Array) -> Array:
        gate, up, down = (self._weights[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
        z = gate @ x
        return down @ (z / (1.0 + np.exp(-z)) * (up @ x))

    def _norm(self, x: Array, weight: str) -> Array:
        return x / np.sqrt(np.mean(x * x) + self._epsilon) * self._weights[weight]

    def _rope(self, x: Array, position: int) -> Array:
        """x: (n, head_dim); the pair (2i, 2i + 1) turns by position * frequency[i]."""
        turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * position * self._frequencies)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape).astype(np.float32)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def write_f32_copy(source: Path, target: Path) -> Path:
    """The same model with its weights dequantised: llama.cpp then quantises no activations either."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
