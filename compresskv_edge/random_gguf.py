"""GGUF models with random weights: tiny ones of many architectures for tests, real shapes for benchmarks.

A model here is a `Shape` (sizes) times an `_Arch` (which keys and tensors llama.cpp's loader asks for). The weights
mean nothing, but the models behave: activations stay of order one, attention is peaked rather than uniform, greedy
decoding never ends early, and the tokenizer inside is a real byte-level BPE that round-trips any text.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GGMLType

Quant = Literal["F32", "F16", "Q8_0", "Q4_0"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. Lengths are in tokens or elements; zero means that the model has none of it."""

    name: str
    arch: str  # llama.cpp's name: mistral, for one, is "llama"
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    rope_theta: float = 10_000.0
    tied_embeddings: bool = True
    rope_factors: bool = False  # Llama 3's frequency factors, Phi-3's long and short ones
    sliding_window: int = 0  # tokens
    swa_pattern: int = 0  # every n-th layer attends to everything, the others to the window
    rope_theta_swa: float = 10_000.0

    @property
    def untied_embeddings(self) -> bool:
        return not self.tied_embeddings

    def full_attention_layers(self) -> tuple[int, ...]:
        """Layers whose attention reaches every token; of an interleaved model, the last of each `swa_pattern`."""
        step = self.swa_pattern or 1
        return tuple(range(step - 1, self.n_layer, step))


def write_random_gguf(path: str | os.PathLike[str], shape: Shape, *, quant: Quant = "F32", seed: int = 0) -> Path:
    """Writes a model of `shape` to `path` and returns it; the same arguments give the same bytes.

    `quant` is the type of the matrices; norms, biases and small tables stay F32. One tensor at a time is in memory.
    Raises ValueError for an unknown architecture or type, or a vocabulary too small for the tokenizer.
    """
    if shape.arch not in _ARCHS:
        raise ValueError(f"no tensor table for architecture '{shape.arch}': use one of {', '.join(sorted(_ARCHS))}")
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
    return sum(math.prod(dims) for _, dims in _tensors(shape))


# --- architectures


class _Tensor(NamedTuple):
    name: str  # "{i}" stands for the layer
    dims: str  # names of sizes in ggml's order, the row length first; see _sizes
    kind: str  # one of _MATRICES or _TABLES below
    when: str = ""  # property of the shape without which the tensor is left out


@dataclass(frozen=True)
class _Arch:
    model: tuple[_Tensor, ...]
    layers: tuple[tuple[_Tensor, ...], ...]  # layer i has the tensors of layers[i % len(layers)]
    metadata: Mapping[str, Any]  # beyond _common_metadata; a callable gets the shape


# Sizes that only architectures of the error tests have, constant because nothing depends on their value.
_SSM_STATE, _SSM_CONV, _SSM_RANK = 16, 4, 32
_MLA_RANK, _MLA_ROPE, _MLA_NOPE, _MLA_VALUE = 64, 32, 32, 32
_REL_BUCKETS = 32


def _sizes(s: Shape) -> dict[str, int]:
    q, kv = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    return {
        "embd": s.n_embd, "vocab": s.n_vocab, "ctx": s.n_ctx_train, "ff": s.n_ff, "ff2": 2 * s.n_ff,
        "q": q, "kv": kv, "qkv": q + 2 * kv, "head": s.head_dim, "half_head": s.head_dim // 2, "n_head": s.n_head,
        "inner": 2 * s.n_embd, "inner2": 4 * s.n_embd, "state": _SSM_STATE, "conv": _SSM_CONV, "rank": _SSM_RANK,
        "ssm_x": _SSM_RANK + 2 * _SSM_STATE,
        "mla_rank": _MLA_RANK, "mla_kv": _MLA_RANK + _MLA_ROPE, "mla_nope": _MLA_NOPE, "mla_value": _MLA_VALUE,
        "mla_q": s.n_head * (_MLA_NOPE + _MLA_ROPE), "mla_out": s.n_head * _MLA_VALUE,
        "buckets": _REL_BUCKETS, "types": 2,
    }  # fmt: skip


def _under(prefix: str, *tensors: _Tensor) -> tuple[_Tensor, ...]:
    return tuple(t._replace(name=prefix + t.name) for t in tensors)


def _norms(*names: str, dim: str = "embd", kind: str = "norm", bias: bool = False) -> tuple[_Tensor, ...]:
    weights = tuple(_Tensor(f"{name}.weight", dim, kind) for name in names)
    return weights + tuple(_Tensor(f"{name}.bias", dim, "bias") for name in names if bias)


_EMBD = _Tensor("token_embd.weight", "embd vocab", "vocab")
_HEAD = (_EMBD, *_norms("output_norm"), _Tensor("output.weight", "embd vocab", "vocab", when="untied_embeddings"))
_ATTN_QKV = (
    _Tensor("attn_q.weight", "embd q", "query"),
    _Tensor("attn_k.weight", "embd kv", "query"),
    _Tensor("attn_v.weight", "embd kv", "matrix"),
)
_ATTN = (*_ATTN_QKV, _Tensor("attn_output.weight", "q embd", "matrix"))
_ATTN_BIAS = tuple(_Tensor(f"attn_{x}.bias", "q" if x == "q" else "kv", "bias") for x in "qkv")
_ATTN_FUSED = (_Tensor("attn_qkv.weight", "embd qkv", "qkv"), _Tensor("attn_output.weight", "q embd", "matrix"))
_QK_NORM = _norms("attn_q_norm", "attn_k_norm", dim="head", kind="qk_norm")
_FFN_PLAIN = (_Tensor("ffn_up.weight", "embd ff", "matrix"), _Tensor("ffn_down.weight", "ff embd", "matrix"))
_FFN = (*_FFN_PLAIN, _Tensor("ffn_gate.weight", "embd ff", "matrix"))
_FFN_FUSED = (_Tensor("ffn_up.weight", "embd ff2", "matrix"), _Tensor("ffn_down.weight", "ff embd", "matrix"))
_MAMBA = (
    _Tensor("ssm_in.weight", "embd inner2", "matrix"),
    _Tensor("ssm_conv1d.weight", "conv inner", "table"),
    _Tensor("ssm_conv1d.bias", "inner", "bias"),
    _Tensor("ssm_x.weight", "inner ssm_x", "matrix"),
    _Tensor("ssm_dt.weight", "rank inner", "matrix"),
    _Tensor("ssm_dt.bias", "inner", "bias"),
    _Tensor("ssm_a", "state inner", "decay"),
    _Tensor("ssm_d", "inner", "norm"),
    _Tensor("ssm_out.weight", "inner embd", "matrix"),
)
_MAMBA_NORMS = (*_norms("ssm_dt_norm", dim="rank"), *_norms("ssm_b_norm", "ssm_c_norm", dim="state"))
_MLA = (
    _Tensor("attn_q.weight", "embd mla_q", "query"),
    _Tensor("attn_kv_a_mqa.weight", "embd mla_kv", "query"),
    *_norms("attn_kv_a_norm", dim="mla_rank"),
    _Tensor("attn_k_b.weight", "mla_nope mla_rank n_head", "matrix"),
    _Tensor("attn_v_b.weight", "mla_rank mla_value n_head", "matrix"),
    _Tensor("attn_output.weight", "mla_out embd", "matrix"),
)
_LLAMA_LAYER = _under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_ATTN, *_FFN)
_GEMMA_NORMS = (
    *_norms("attn_norm", "ffn_norm"),
    *_norms("post_attention_norm", "post_ffw_norm", kind="post_norm"),
)
_GPT2_LAYER = _under(
    "blk.{i}.",
    *_norms("attn_norm", "ffn_norm", bias=True),
    *_ATTN_FUSED,
    *_FFN_PLAIN,
    _Tensor("attn_qkv.bias", "qkv", "bias"),
    _Tensor("attn_output.bias", "embd", "bias"),
    _Tensor("ffn_up.bias", "ff", "bias"),
    _Tensor("ffn_down.bias", "embd", "bias"),
)
_POSITIONS = _Tensor("position_embd.weight", "embd ctx", "table")
_T5_ATTN = (*_ATTN_QKV, _Tensor("attn_o.weight", "q embd", "matrix"))
_T5_BLOCK = (
    *_norms("attn_norm", "ffn_norm"),
    _Tensor("attn_rel_b.weight", "n_head buckets", "table"),
    *_T5_ATTN,
    *_FFN,
)

_RMS = {"attention.layer_norm_rms_epsilon": 1e-6}
_LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
_SWA = {
    "attention.sliding_window": lambda s: s.sliding_window,
    "attention.sliding_window_pattern": lambda s: s.swa_pattern,
    "rope.freq_base_swa": lambda s: float(s.rope_theta_swa),
}
_SSM = {
    "ssm.conv_kernel": _SSM_CONV,
    "ssm.inner_size": lambda s: 2 * s.n_embd,
    "ssm.state_size": _SSM_STATE,
    "ssm.time_step_rank": _SSM_RANK,
}

_ARCHS: Mapping[str, _Arch] = {
    "llama": _Arch(
        (*_HEAD, _Tensor("rope_freqs.weight", "half_head", "rope", when="rope_factors")),
        (_LLAMA_LAYER,),
        _RMS,
    ),
    "qwen2": _Arch(_HEAD, (_LLAMA_LAYER + _under("blk.{i}.", *_ATTN_BIAS),), _RMS),
    "qwen3": _Arch(_HEAD, (_LLAMA_LAYER + _under("blk.{i}.", *_QK_NORM),), _RMS),
    "phi3": _Arch(
        (
            *_HEAD,
            _Tensor("rope_factors_long.weight", "half_head", "rope", when="rope_factors"),
            _Tensor("rope_factors_short.weight", "half_head", "rope", when="rope_factors"),
        ),
        (_under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_ATTN_FUSED, *_FFN_FUSED),),
        # a context longer than the original one takes the long factors
        _RMS | {"rope.scaling.original_context_length": lambda s: s.n_ctx_train // 4},
    ),
    "gemma2": _Arch(
        _HEAD[:2],
        (_under("blk.{i}.", *_GEMMA_NORMS, *_ATTN, *_FFN),),
        _RMS | _SWA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": _Arch(_HEAD[:2], (_under("blk.{i}.", *_GEMMA_NORMS, *_ATTN, *_QK_NORM, *_FFN),), _RMS | _SWA),
    "gpt2": _Arch((_EMBD, _POSITIONS, *_norms("output_norm", bias=True)), (_GPT2_LAYER,), _LAYER_NORM),
    "bloom": _Arch((_EMBD, *_norms("token_embd_norm", "output_norm", bias=True)), (_GPT2_LAYER,), _LAYER_NORM),
    # the rest exists to be refused: recurrent, hybrid, MLA, encoder, encoder-decoder
    "mamba": _Arch(_HEAD, (_under("blk.{i}.", *_norms("attn_norm"), *_MAMBA),), _RMS | _SSM),
    "jamba": _Arch(
        _HEAD,
        (
            _under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_MAMBA, *_MAMBA_NORMS, *_FFN),
            _LLAMA_LAYER,
        ),
        # a layer without KV heads is a recurrent one
        _RMS | _SSM | {"attention.head_count_kv": lambda s: [i % 2 * s.n_head_kv for i in range(s.n_layer)]},
    ),
    "deepseek2": _Arch(
        _HEAD,
        (_under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_MLA, *_FFN),),
        _RMS
        | {
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 0,
            "attention.kv_lora_rank": _MLA_RANK,
            "attention.key_length": _MLA_RANK + _MLA_ROPE,
            "attention.value_length": _MLA_RANK,
            "attention.key_length_mla": _MLA_NOPE + _MLA_ROPE,
            "attention.value_length_mla": _MLA_VALUE,
            "rope.dimension_count": _MLA_ROPE,
            "leading_dense_block_count": lambda s: s.n_layer,  # all layers dense: no expert tensors
            "expert_feed_forward_length": lambda s: s.n_ff,
            "expert_shared_count": 0,
        },
    ),
    "bert": _Arch(
        (
            _EMBD,
            _POSITIONS,
            _Tensor("token_types.weight", "embd types", "table"),
            *_norms("token_embd_norm", bias=True),
        ),
        (_under("blk.{i}.", *_ATTN, *_FFN_PLAIN, *_norms("attn_output_norm", "layer_output_norm", bias=True)),),
        _LAYER_NORM | {"attention.causal": False, "pooling_type": 1},
    ),
    "t5": _Arch(
        (_EMBD, *_norms("enc.output_norm", "dec.output_norm")),
        (
            _under("enc.blk.{i}.", *_T5_BLOCK)
            + _under("dec.blk.{i}.", *_T5_BLOCK)
            + _under("dec.blk.{i}.cross_", *_norms("attn_norm"), *_T5_ATTN),
        ),
        _RMS | {"attention.relative_buckets_count": _REL_BUCKETS, "decoder_start_token_id": 0},
    ),
}


def _tensors(shape: Shape) -> Iterator[tuple[_Tensor, tuple[int, ...]]]:
    """The model's tensors with their shapes in NumPy's order, the row length last."""
    arch, sizes = _ARCHS[shape.arch], _sizes(shape)
    layers = (
        t._replace(name=t.name.format(i=i)) for i in range(shape.n_layer) for t in arch.layers[i % len(arch.layers)]
    )
    for tensor in (*arch.model, *layers):
        if not tensor.when or getattr(shape, tensor.when):
            yield tensor, tuple(sizes[d] for d in reversed(tensor.dims.split()))


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
    plan = [(t, dims, _tensor_type(t, dims, quant)) for t, dims in _tensors(shape)]
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


def _tensor_type(tensor: _Tensor, dims: tuple[int, ...], quant: Quant) -> GGMLType:
    if tensor.kind not in _MATRICES:
        return GGMLType.F32
    if quant == "Q4_0" and tensor.kind == "vocab":
        return GGMLType.Q8_0  # files of this type in the wild keep the output matrix finer, which decoding speed shows
    kind = GGMLType[quant]
    return kind if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else GGMLType.F16


def _weights(
    rng: np.random.Generator, tensor: _Tensor, dims: tuple[int, ...], kind: GGMLType, shape: Shape
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
    return keys | {k: v(s) if callable(v) else v for k, v in _ARCHS[s.arch].metadata.items()}


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


# --- shapes

SHAPES: Mapping[str, Shape] = {
    s.name: s
    for s in (
        Shape("qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151_936, 32_768, 1e6),
        Shape("qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151_936, 32_768, 1e6),
        Shape("qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, 40_960, 1e6),
        Shape("llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128_256, 131_072, 5e5, rope_factors=True),
        Shape(
            "gemma-3-1b", "gemma3", 26, 1152, 4, 1, 256, 6912, 262_144, 32_768, 1e6, sliding_window=512, swa_pattern=6
        ),
    )
}  # fmt: skip


def _tiny(name: str, *, arch: str = "", n_layer: int = 3, n_embd: int = 128, n_head: int = 4, n_head_kv: int = 2,
          head_dim: int = 32, n_ff: int = 192, **more: Any) -> Shape:  # fmt: skip
    return Shape(f"tiny-{name}", arch or name, n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, 320, 8192, **more)


TINY_SHAPES: Mapping[str, Shape] = {
    s.name.removeprefix("tiny-"): s
    for s in (
        _tiny("llama", rope_factors=True),
        _tiny("mistral", arch="llama", n_embd=192, n_head=6, n_head_kv=2, tied_embeddings=False, rope_theta=1e6),
        _tiny("qwen2", rope_theta=1e6),
        _tiny("qwen3", n_embd=96, n_head_kv=1, head_dim=64, rope_theta=1e6),
        _tiny("phi3", n_head_kv=4, tied_embeddings=False, rope_factors=True),
        _tiny("gpt2", n_head_kv=4),
        _tiny("gemma2", n_layer=4, sliding_window=64, swa_pattern=2),
        _tiny("gemma3", n_layer=12, n_embd=96, n_head_kv=1, rope_theta=1e6, sliding_window=64, swa_pattern=6),
        _tiny("bloom", n_head_kv=4),
        _tiny("mamba", n_head=0, n_head_kv=0, head_dim=0, n_ff=0),
        _tiny("jamba", n_layer=4),
        _tiny("deepseek2"),
        _tiny("bert", n_head_kv=4),
        _tiny("t5", n_head_kv=4),
    )
}
