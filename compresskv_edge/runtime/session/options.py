"""Arguments of `Llama` that a session file may choose. The file may come from a stranger: these and no others, each
within its bounds, and nothing that names a file or a machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Dict, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...policies.registry import get
from ..prefill import Opened

# of llama_cpp's context parameters: what keys and values depend on, and the layout of the cache
CONTEXT = (
    "type_k", "type_v", "swa_full", "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor",
    "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip
_KV = ("kv_budget", "kv_tail", "kv_prefill", "kv_memory", "kv_protect", "kv_guide", "kv_policy", "kv_rebase")
_LORA = ("lora_path", "lora_scale", "lora_base")

MAX_TOKENS = 1 << 24  # as kv_rebase

# that llama.cpp has for a cache: f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, bf16. Others end the process
CacheType = Literal[0, 1, 2, 3, 6, 7, 8, 20, 30]
Factor = Annotated[float, Field(strict=True, ge=-1e12, le=1e12, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
Share = Annotated[float, Field(strict=True, gt=0.0, le=1.0, allow_inf_nan=False)]
ShortText = Annotated[str, Field(strict=True, max_length=40)]


class Context(BaseModel):
    """Parameters of llama.cpp's context; an instance that takes the session in must have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type_k: CacheType
    type_v: CacheType
    swa_full: Flag
    rope_scaling_type: Annotated[int, Field(strict=True, ge=-1, le=3)]
    rope_freq_base: Factor
    rope_freq_scale: Factor
    yarn_ext_factor: Factor
    yarn_attn_factor: Factor
    yarn_beta_fast: Factor
    yarn_beta_slow: Factor
    yarn_orig_ctx: Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]


class Options(Context):
    """How the instance was loaded. A LoRA is named for people only: the caller says where it is now, and what it is
    must agree with the `model_hash` of the header.
    """

    n_ctx: Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
    lora_path: Optional[Annotated[str, Field(max_length=4096)]] = None
    lora_scale: Factor = 1.0
    lora_base: Optional[Annotated[str, Field(max_length=4096)]] = None
    kv_budget: Optional[Union[Tokens, Share]] = None
    kv_tail: Annotated[int, Field(strict=True, ge=1, le=1 << 16)] = 512
    kv_prefill: Optional[Literal["full", "chunked", "guided"]] = None
    kv_memory: Union[Annotated[int, Field(strict=True, ge=1, lt=1 << 63)], ShortText, None] = None
    kv_protect: Flag = True
    kv_guide: Tokens = 256
    kv_policy: Annotated[str, Field(strict=True, max_length=200)] = "compresskv"
    kv_rebase: Flag = False

    @field_validator("kv_policy")
    @classmethod
    def _is_known(cls, spec: str) -> str:
        get(spec)
        return spec

    def arguments(self, *, lora: bool) -> Dict[str, Any]:
        """Of `Llama`, as the file says; the scale of a LoRA if the caller gives one."""
        not_ours = {"lora_path", "lora_base"} if lora else set(_LORA)
        return self.model_dump(exclude_unset=True, exclude=not_ours)


def context_of(llm: Opened) -> Dict[str, Any]:
    """The parameters of `Context` that an instance has."""
    return {name: getattr(llm.context_params, name) for name in CONTEXT}


def options_of(llm: Opened) -> Dict[str, Any]:
    """The fields of `Options` that an instance has."""
    state = llm.__getstate__()
    return {name: state[name] for name in ("n_ctx", *CONTEXT, *_LORA, *_KV) if name in state}
