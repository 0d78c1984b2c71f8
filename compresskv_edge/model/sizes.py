"""What a model's memory consists of, computed from its shape before anything is loaded.

K and V are exact (a test compares them with what llama.cpp allocates). The compute buffer is an estimate, see
`compute_bytes`. All contexts have one sequence and flash attention, for stock and for us.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModelError
from .facts import ModelFacts
from .gguf_file import GGUF
from .kv_types import row_bytes
from .random_gguf import Shape, n_parameters
from .shapes import BITS_PER_WEIGHT

KV_TYPES = ("f16", "q8_0", "q4_0")
N_UBATCH = 512  # tokens a graph takes at once, llama-cpp-python's default
PAD = 256  # rows of a cache come in steps of this many

# llama.cpp's own default where the GGUF names no pattern: every n-th layer attends to everything (src/models/*.cpp)
_SWA_PATTERN = {"gemma2": 2, "gemma3": 6, "cohere2": 4, "exaone4": 4, "gpt-oss": 2, "llama4": 4, "olmo2": 4}
_SWA_DEFAULT = {"gemma2": 4096}
# metadata of models whose cache is not K and V of attention layers
_OTHER_CACHES = {
    "ssm.state_size": "keeps a recurrent state",
    "wkv.head_size": "keeps a recurrent state",
    "attention.kv_lora_rank": "uses multi-head latent attention (MLA)",
}


@dataclass(frozen=True)
class ModelSizes:
    """A model as memory. Per layer: elements of a token's Q, K and V row; sliding window in tokens or 0."""

    name: str
    architecture: str
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_vocab: int
    weights_bytes: int
    q_row: tuple[int, ...]
    k_row: tuple[int, ...]
    v_row: tuple[int, ...]
    sliding_window: tuple[int, ...]

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> ModelSizes:
        """From the header of a file, or of all files of a split model. Raises UnsupportedModelError."""
        try:
            return cls._from_gguf(path)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, UnsupportedModelError):
                raise
            raise UnsupportedModelError(
                f"{str(path)!r} has sizes in its header that no model has ({error}): give a complete .gguf file"
            ) from error

    @classmethod
    def _from_gguf(cls, path: str | os.PathLike[str]) -> ModelSizes:
        file, facts = GGUF.open(path), ModelFacts.from_gguf(path)
        get = _getter(file.metadata, facts.architecture)
        if int(get("context_length", 0)) < 1:
            raise UnsupportedModelError(
                f"{str(path)!r} has no {facts.architecture}.context_length, without which llama.cpp loads no model: "
                "give a complete .gguf file"
            )
        _refuse_other_caches(facts.architecture, get, str(path))
        n_head, n_head_kv, k_dim = (
            _per_layer(x, facts.n_layer) for x in (facts.n_head, facts.n_head_kv, facts.head_dim)
        )
        v_dim = _per_layer(get("attention.value_length", facts.head_dim), facts.n_layer)
        embeddings = file.tensors.get("token_embd.weight")
        return cls(
            name=facts.name or os.path.basename(path),
            architecture=facts.architecture,
            n_ctx_train=int(get("context_length", 0)),
            n_embd=int(get("embedding_length", 0)),
            n_ff=max(_per_layer(get("feed_forward_length", 0), facts.n_layer)),
            n_vocab=int(get("vocab_size", embeddings.dims[1] if embeddings else 0)),
            weights_bytes=sum(tensor.n_bytes for tensor in file.tensors.values()),
            q_row=tuple(n * d for n, d in zip(n_head, k_dim)),
            k_row=tuple(n * d for n, d in zip(n_head_kv, k_dim)),
            v_row=tuple(n * d for n, d in zip(n_head_kv, v_dim)),
            sliding_window=_windows(facts.architecture, facts.n_layer, get),
        )

    @classmethod
    def from_shape(cls, shape: Shape, quant: str = "Q4_K_M") -> ModelSizes:
        """From a shape of `shapes.USUAL`; the weights are parameters times the usual bits of `quant`: an estimate."""
        full = set(shape.full_attention_layers())
        return cls(
            name=shape.name,
            architecture=shape.arch,
            n_ctx_train=shape.n_ctx_train,
            n_embd=shape.n_embd,
            n_ff=shape.n_ff,
            n_vocab=shape.n_vocab,
            weights_bytes=round(n_parameters(shape) * BITS_PER_WEIGHT[quant] / 8),
            q_row=(shape.n_head * shape.head_dim,) * shape.n_layer,
            k_row=(shape.n_head_kv * shape.head_dim,) * shape.n_layer,
            v_row=(shape.n_head_kv * shape.head_dim,) * shape.n_layer,
            sliding_window=tuple(0 if layer in full else shape.sliding_window for layer in range(shape.n_layer)),
        )

    @property
    def n_layer(self) -> int:
        return len(self.k_row)

    def row_bytes(self, layer: int, type_k: str, type_v: str) -> int:
        """K and V of one token in one layer."""
        return row_bytes(self.k_row[layer], type_k) + row_bytes(self.v_row[layer], type_v)

    def kv_bytes(self, n_rows: int, type_k: str = "f16", type_v: str = "f16") -> int:
        """K and V of `n_rows` rows a layer; a layer with a sliding window holds that and a micro-batch at most."""
        return sum(
            min(n_rows, _swa_rows(window) if window else n_rows) * self.row_bytes(layer, type_k, type_v)
            for layer, window in enumerate(self.sliding_window)
        )

    def largest_layer_bytes(self, n_rows: int, type_k: str = "f16", type_v: str = "f16") -> int:
        """As kv_bytes, for the largest layer that is compressed: it is there twice while its rows move."""
        rows = (self.row_bytes(i, type_k, type_v) for i, window in enumerate(self.sliding_window) if not window)
        return n_rows * max(rows, default=0)

    def window_bytes(self, window: int = 8) -> int:
        """Queries of the observation window, kept for scoring: f32."""
        return 4 * window * sum(q for q, swa in zip(self.q_row, self.sliding_window) if not swa)

    def compute_bytes(self, n_rows: int) -> int:
        """Estimate of the compute buffer for a cache of `n_rows` rows, with flash attention.

        The larger of two moments: the logits of a micro-batch with two of its hidden states, or the attention mask
        (f16) with a layer's activations. Within 10 % and 4 MiB of what llama.cpp allocates on the CPU for the models
        of tests/test_sizes.py. Other devices and CPU work buffers (some MB) come on top.
        """
        logits = 4 * N_UBATCH * (self.n_vocab + 2 * self.n_embd)
        widest = max(2 * self.n_ff, max(self.q_row) + max(self.k_row) + max(self.v_row)) + 2 * self.n_embd
        return max(logits, N_UBATCH * (2 * n_rows + 4 * widest))


def pad(n_rows: int) -> int:
    """Rows as allocated."""
    return -(-n_rows // PAD) * PAD


def _swa_rows(window: int) -> int:
    return pad(window + N_UBATCH)


def _getter(metadata: Mapping[str, Any], architecture: str) -> Any:
    return lambda key, default=None: metadata.get(f"{architecture}.{key}", default)


def _per_layer(value: int | Sequence[int], n_layer: int) -> tuple[int, ...]:
    return (value,) * n_layer if isinstance(value, int) else tuple(operator.index(each) for each in value)


def _windows(architecture: str, n_layer: int, get: Any) -> tuple[int, ...]:
    """Sliding windows as llama.cpp reads them; an architecture that is not known to use its window gets none."""
    window = int(get("attention.sliding_window", _SWA_DEFAULT.get(architecture, 0)) or 0)
    pattern = get("attention.sliding_window_pattern", _SWA_PATTERN.get(architecture))
    if not window or pattern is None or architecture not in _SWA_PATTERN:
        return (0,) * n_layer
    if isinstance(pattern, list):
        return tuple(window if sliding else 0 for sliding in pattern[:n_layer])
    return tuple(window if layer % pattern < pattern - 1 else 0 for layer in range(n_layer))


def _refuse_other_caches(architecture: str, get: Any, path: str) -> None:
    for key, why in _OTHER_CACHES.items():
        if get(key) is not None:
            raise UnsupportedModelError(
                f"{path!r}: architecture {architecture!r} {why}: it cannot be compressed, "
                "and its memory is not planned here"
            )
    if get("attention.causal") is False:
        raise UnsupportedModelError(f"{path!r}: architecture {architecture!r} is an encoder: it keeps no KV cache")
