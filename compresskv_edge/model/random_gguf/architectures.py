"""What llama.cpp's loader asks of each architecture: a table of tensors, and metadata beside the common keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .shape import Shape


class TensorSpec(NamedTuple):
    name: str  # "{i}" stands for the layer
    dims: str  # names of sizes in ggml's order, the row length first; see _sizes
    kind: str  # one of _MATRICES or _TABLES below
    when: str = ""  # property of the shape without which the tensor is left out


@dataclass(frozen=True)
class Architecture:
    model: tuple[TensorSpec, ...]
    layers: tuple[tuple[TensorSpec, ...], ...]  # layer i has the tensors of layers[i % len(layers)]
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


def _under(prefix: str, *tensors: TensorSpec) -> tuple[TensorSpec, ...]:
    return tuple(t._replace(name=prefix + t.name) for t in tensors)


def _norms(*names: str, dim: str = "embd", kind: str = "norm", bias: bool = False) -> tuple[TensorSpec, ...]:
    weights = tuple(TensorSpec(f"{name}.weight", dim, kind) for name in names)
    return weights + tuple(TensorSpec(f"{name}.bias", dim, "bias") for name in names if bias)


_EMBD = TensorSpec("token_embd.weight", "embd vocab", "vocab")
_HEAD = (_EMBD, *_norms("output_norm"), TensorSpec("output.weight", "embd vocab", "vocab", when="untied_embeddings"))
_ATTN_QKV = (
    TensorSpec("attn_q.weight", "embd q", "query"),
    TensorSpec("attn_k.weight", "embd kv", "query"),
    TensorSpec("attn_v.weight", "embd kv", "matrix"),
)
_ATTN = (*_ATTN_QKV, TensorSpec("attn_output.weight", "q embd", "matrix"))
_ATTN_BIAS = tuple(TensorSpec(f"attn_{x}.bias", "q" if x == "q" else "kv", "bias") for x in "qkv")
_ATTN_FUSED = (TensorSpec("attn_qkv.weight", "embd qkv", "qkv"), TensorSpec("attn_output.weight", "q embd", "matrix"))
_QK_NORM = _norms("attn_q_norm", "attn_k_norm", dim="head", kind="qk_norm")
_FFN_PLAIN = (TensorSpec("ffn_up.weight", "embd ff", "matrix"), TensorSpec("ffn_down.weight", "ff embd", "matrix"))
_FFN = (*_FFN_PLAIN, TensorSpec("ffn_gate.weight", "embd ff", "matrix"))
_FFN_FUSED = (TensorSpec("ffn_up.weight", "embd ff2", "matrix"), TensorSpec("ffn_down.weight", "ff embd", "matrix"))
_MAMBA = (
    TensorSpec("ssm_in.weight", "embd inner2", "matrix"),
    TensorSpec("ssm_conv1d.weight", "conv inner", "table"),
    TensorSpec("ssm_conv1d.bias", "inner", "bias"),
    TensorSpec("ssm_x.weight", "inner ssm_x", "matrix"),
    TensorSpec("ssm_dt.weight", "rank inner", "matrix"),
    TensorSpec("ssm_dt.bias", "inner", "bias"),
    TensorSpec("ssm_a", "state inner", "decay"),
    TensorSpec("ssm_d", "inner", "norm"),
    TensorSpec("ssm_out.weight", "inner embd", "matrix"),
)
_MAMBA_NORMS = (*_norms("ssm_dt_norm", dim="rank"), *_norms("ssm_b_norm", "ssm_c_norm", dim="state"))
_MLA = (
    TensorSpec("attn_q.weight", "embd mla_q", "query"),
    TensorSpec("attn_kv_a_mqa.weight", "embd mla_kv", "query"),
    *_norms("attn_kv_a_norm", dim="mla_rank"),
    TensorSpec("attn_k_b.weight", "mla_nope mla_rank n_head", "matrix"),
    TensorSpec("attn_v_b.weight", "mla_rank mla_value n_head", "matrix"),
    TensorSpec("attn_output.weight", "mla_out embd", "matrix"),
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
    TensorSpec("attn_qkv.bias", "qkv", "bias"),
    TensorSpec("attn_output.bias", "embd", "bias"),
    TensorSpec("ffn_up.bias", "ff", "bias"),
    TensorSpec("ffn_down.bias", "embd", "bias"),
)
_POSITIONS = TensorSpec("position_embd.weight", "embd ctx", "table")
_T5_ATTN = (*_ATTN_QKV, TensorSpec("attn_o.weight", "q embd", "matrix"))
_T5_BLOCK = (
    *_norms("attn_norm", "ffn_norm"),
    TensorSpec("attn_rel_b.weight", "n_head buckets", "table"),
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

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        (*_HEAD, TensorSpec("rope_freqs.weight", "half_head", "rope", when="rope_factors")),
        (_LLAMA_LAYER,),
        _RMS,
    ),
    "qwen2": Architecture(_HEAD, (_LLAMA_LAYER + _under("blk.{i}.", *_ATTN_BIAS),), _RMS),
    "qwen3": Architecture(_HEAD, (_LLAMA_LAYER + _under("blk.{i}.", *_QK_NORM),), _RMS),
    "phi3": Architecture(
        (
            *_HEAD,
            TensorSpec("rope_factors_long.weight", "half_head", "rope", when="rope_factors"),
            TensorSpec("rope_factors_short.weight", "half_head", "rope", when="rope_factors"),
        ),
        (_under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_ATTN_FUSED, *_FFN_FUSED),),
        # a context longer than the original one takes the long factors
        _RMS | {"rope.scaling.original_context_length": lambda s: s.n_ctx_train // 4},
    ),
    "gemma2": Architecture(
        _HEAD[:2],
        (_under("blk.{i}.", *_GEMMA_NORMS, *_ATTN, *_FFN),),
        _RMS | _SWA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": Architecture(_HEAD[:2], (_under("blk.{i}.", *_GEMMA_NORMS, *_ATTN, *_QK_NORM, *_FFN),), _RMS | _SWA),
    "gpt2": Architecture((_EMBD, _POSITIONS, *_norms("output_norm", bias=True)), (_GPT2_LAYER,), _LAYER_NORM),
    "bloom": Architecture((_EMBD, *_norms("token_embd_norm", "output_norm", bias=True)), (_GPT2_LAYER,), _LAYER_NORM),
    # the rest exists to be refused: recurrent, hybrid, MLA, encoder, encoder-decoder
    "mamba": Architecture(_HEAD, (_under("blk.{i}.", *_norms("attn_norm"), *_MAMBA),), _RMS | _SSM),
    "jamba": Architecture(
        _HEAD,
        (
            _under("blk.{i}.", *_norms("attn_norm", "ffn_norm"), *_MAMBA, *_MAMBA_NORMS, *_FFN),
            _LLAMA_LAYER,
        ),
        # a layer without KV heads is a recurrent one
        _RMS | _SSM | {"attention.head_count_kv": lambda s: [i % 2 * s.n_head_kv for i in range(s.n_layer)]},
    ),
    "deepseek2": Architecture(
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
    "bert": Architecture(
        (
            _EMBD,
            _POSITIONS,
            TensorSpec("token_types.weight", "embd types", "table"),
            *_norms("token_embd_norm", bias=True),
        ),
        (_under("blk.{i}.", *_ATTN, *_FFN_PLAIN, *_norms("attn_output_norm", "layer_output_norm", bias=True)),),
        _LAYER_NORM | {"attention.causal": False, "pooling_type": 1},
    ),
    "t5": Architecture(
        (_EMBD, *_norms("enc.output_norm", "dec.output_norm")),
        (
            _under("enc.blk.{i}.", *_T5_BLOCK)
            + _under("dec.blk.{i}.", *_T5_BLOCK)
            + _under("dec.blk.{i}.cross_", *_norms("attn_norm"), *_T5_ATTN),
        ),
        _RMS | {"attention.relative_buckets_count": _REL_BUCKETS, "decoder_start_token_id": 0},
    ),
}


def tensors(shape: Shape) -> Iterator[tuple[TensorSpec, tuple[int, ...]]]:
    """The model's tensors with their shapes in NumPy's order, the row length last."""
    arch, sizes = ARCHITECTURES[shape.arch], _sizes(shape)
    layers = (
        t._replace(name=t.name.format(i=i)) for i in range(shape.n_layer) for t in arch.layers[i % len(arch.layers)]
    )
    for tensor in (*arch.model, *layers):
        if not tensor.when or getattr(shape, tensor.when):
            yield tensor, tuple(sizes[d] for d in reversed(tensor.dims.split()))
