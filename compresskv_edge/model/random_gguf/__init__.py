"""GGUF models with random weights: tiny ones of many architectures for tests, real shapes for benchmarks.

A model here is a `Shape` (sizes) times an `Architecture` (which keys and tensors llama.cpp's loader asks for). The
weights mean nothing, but the models behave: activations stay of order one, attention is peaked rather than uniform,
greedy decoding never ends early, and the tokenizer inside is a real byte-level BPE that round-trips any text.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GGMLType

from .architectures import ARCHITECTURES, TensorSpec, tensors
from .shape import SHAPES, TINY_SHAPES, Shape

__all__ = ["BOS", "EOS", "SHAPES", "TINY_SHAPES", "Quant", "Shape", "n_parameters", "write_random_gguf"]

Quant = Literal["F32", "F16", "Q8_0", "Q4_0"]


def write_random_gguf(path: str | os.PathLike[str], shape: Shape, *, quant: Quant = "F32", seed: int = 0) -> Path:
    """Writes a model of `shape` to `path` and returns it; the same arguments give the same bytes.

    `quant` is the type of the matrices; norms, biases and small tables stay F32. One tensor at a time is in memory.
    Raises ValueError for an unknown architecture or type, or a vocabulary too small for the tokenizer.
    """
    if shape.arch not in ARCHITECTURES:
        raise ValueError(
            f"no tensor table for architecture '{shape.arch}': use one of {', '.join(sorted(ARCHITECTURES))}"
        )
    if quant not in get_args(Quant):
        raise ValueError(f"quant is '{quant}': use one of {', '.join(get_args(Quant))}")
    writer = gguf.GGUFWriter(path, shape.arch)
    try:
        _write_metadata(writer, shape, quant)
        _write_weights(writer, shape, quant, seed)
    finally:
        writer.close()
    return Path(path)


def n_parameters(shape: Shape) -> int:
    """Number of weights, all tensors together."""
    return sum(math.prod(dims) for _, dims in tensors(shape))


# --- weights

# Gains of matrices over 1/sqrt(row length). Query and key rows get more, so that the attention's logits have a standard
# deviation of about 2.5: some tokens matter. Embeddings get little, so that context outweighs the current token where
# the same matrix is the output head; otherwise greedy decoding would repeat one token.
_QK_GAIN = 1.6
_MATRICES = {"matrix": 1.0, "query": _QK_GAIN, "qkv": 1.0, "vocab": 1.5}

_TABLES: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[Any]]] = {
    "norm": lambda rng, dims: 1 + 0.1 * rng.standard_normal(dims),
    "qk_norm": lambda rng, dims: _QK_GAIN + 0.1 * rng.standard_normal(dims),
    # Gemma multiplies embeddings by sqrt(n_embd): what layers add must outweigh that
    "post_norm": lambda rng, dims: 4 + 0.1 * rng.standard_normal(dims),
    "bias": lambda rng, dims: 0.2 * rng.standard_normal(dims),
    "table": lambda rng, dims: 0.2 * rng.standard_normal(dims),
    "rope": lambda rng, dims: np.sort(rng.uniform(1, 8, dims)),  # slows the low frequencies down
    "decay": lambda rng, dims: -rng.uniform(1, 4, dims),  # a recurrent state must forget
}

_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", 16)])  # 32 weights: (nibble - 8) * d
_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])  # 32 weights: q * d
_Q4_0_STD = math.sqrt((16**2 - 1) / 12)  # of uniform nibbles, and next of uniform bytes
_Q8_0_STD = math.sqrt((256**2 - 1) / 12)


def _write_weights(writer: gguf.GGUFWriter, shape: Shape, quant: Quant, seed: int) -> None:
    plan = [(t, dims, _tensor_type(t, dims, quant)) for t, dims in tensors(shape)]
    for tensor, dims, kind in plan:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = math.prod(dims) // block * block_bytes
        writer.add_tensor_info(tensor.name, dims, np.dtype(np.float32), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, dims, kind in plan:
        # a stream of its own per tensor: adding one does not change the others
        rng = np.random.default_rng((seed, zlib.crc32(tensor.name.encode())))
        writer.write_tensor_data(_weights(rng, tensor, dims, kind, shape))


def _tensor_type(tensor: TensorSpec, dims: tuple[int, ...], quant: Quant) -> GGMLType:
    if tensor.kind not in _MATRICES:
        return GGMLType.F32
    if quant == "Q4_0" and tensor.kind == "vocab":
        return GGMLType.Q8_0  # files of this type in the wild keep the output matrix finer, which decoding speed shows
    kind = GGMLType[quant]
    return kind if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else GGMLType.F16


def _weights(
    rng: np.random.Generator, tensor: TensorSpec, dims: tuple[int, ...], kind: GGMLType, shape: Shape
) -> npt.NDArray[Any]:
    if tensor.kind not in _MATRICES:
        return _TABLES[tensor.kind](rng, dims).astype(np.float32)
    n_rows, n_cols = math.prod(dims[:-1]), dims[-1]
    std = np.full(n_rows, _MATRICES[tensor.kind] / math.sqrt(n_cols), np.float32)
    if tensor.kind == "qkv":
        std[: (shape.n_head + shape.n_head_kv) * shape.head_dim] *= _QK_GAIN
    if tensor.kind == "vocab":
        std[EOS : EOS + 2] = 0  # </s>, <|endoftext|>: a logit of 0 is never the largest, so greedy decoding goes on
    return _rows(rng, n_cols, std, kind)


def _rows(rng: np.random.Generator, n_cols: int, std: npt.NDArray[np.float32], kind: GGMLType) -> npt.NDArray[Any]:
    """Rows of the given standard deviations; quantised ones are drawn as blocks, much faster than quantising floats."""
    n_rows = len(std)
    if kind in (GGMLType.F32, GGMLType.F16):
        values = rng.standard_normal((n_rows, n_cols), dtype=np.float32)
        values *= std[:, None]
        return values.astype(np.float16) if kind == GGMLType.F16 else values
    dtype, unit_std = (_Q4_0, _Q4_0_STD) if kind == GGMLType.Q4_0 else (_Q8_0, _Q8_0_STD)
    blocks = np.empty((n_rows, n_cols // 32), dtype)
    blocks["q"] = np.frombuffer(rng.bytes(blocks["q"].size), dtype["q"].base).reshape(blocks["q"].shape)
    if kind == GGMLType.Q8_0:
        np.maximum(blocks["q"], -127, out=blocks["q"])  # quantisers never give -128, some kernels rely on it
    # nibbles are -8..7: a random sign of the scale takes the mean off
    blocks["d"] = np.where(rng.random(blocks.shape, np.float32) < 0.5, -1, 1) * (std / unit_std)[:, None]
    return blocks


# --- metadata and tokenizer

BOS, EOS = 256, 257  # after the 256 bytes
# llama.cpp demands all four of a model whose name has "phi3" in it; the third ends a text as well
_SPECIALS = ("<s>", "</s>", "<|endoftext|>", "<unk>")
_MERGES = [
    "Ġ t", "h e", "Ġt he", "i n", "e r", "a n", "Ġ a", "o u", "Ġ s", "Ġ w", "o n", "r e", "Ġ o", "Ġo f",
    "n d", "Ġa nd", "e d", "Ġ b", "Ġ c", "in g", "e s", "o r", "Ġ m", "Ġ f", "i t", "a r", "a t", "l l",
]  # fmt: skip
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def _common_metadata(s: Shape) -> dict[str, Any]:
    keys = {
        "context_length": s.n_ctx_train,
        "embedding_length": s.n_embd,
        "block_count": s.n_layer,
        "feed_forward_length": s.n_ff,
        "attention.head_count": s.n_head,
        "attention.head_count_kv": s.n_head_kv,
        "attention.key_length": s.head_dim,
        "attention.value_length": s.head_dim,
        "rope.dimension_count": s.head_dim,
        "rope.freq_base": float(s.rope_theta),
    }
    return keys | {k: v(s) if callable(v) else v for k, v in ARCHITECTURES[s.arch].metadata.items()}


def _write_metadata(writer: gguf.GGUFWriter, shape: Shape, quant: Quant) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array,
    }  # fmt: skip
    writer.add_name(shape.name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if quant == "F32" else f"MOSTLY_{quant}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in _common_metadata(shape).items():
        adders[type(value)](f"{shape.arch}.{key}", value)
    _write_tokenizer(writer, shape.n_vocab)


def _write_tokenizer(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """Byte-level BPE for every architecture: llama.cpp ties neither to the other."""
    tokens = [*_byte_symbols(), *_SPECIALS, *(merge.replace(" ", "") for merge in _MERGES)]
    if n_vocab < len(tokens):
        raise ValueError(f"n_vocab is {n_vocab}: the tokenizer needs {len(tokens)} or more")
    tokens += [f"~{i}" for i in range(len(tokens), n_vocab)]  # filler, of no merge: prompts never have them
    types = [gguf.TokenType.NORMAL] * n_vocab
    types[BOS : BOS + len(_SPECIALS)] = [gguf.TokenType.CONTROL] * len(_SPECIALS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # of the pre-tokenizers, a simple one that leaves spaces alone
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(_MERGES)
    writer.add_token_type_count(2)  # encoders insist on it
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else the next free one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(256, 512))
    return [chr(b if b in printable else next(free)) for b in range(256)]
