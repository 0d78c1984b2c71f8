"""What a session says of itself: which model, profile and versions it belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from pydantic import BaseModel, ConfigDict

from ...engine import library
from ...model.gguf_file import GGUF
from ...version import __version__
from ..attached import attached_profile
from ..policy_run import DEFAULT
from ..protection import N_SINKS

if TYPE_CHECKING:
    from ..llama import Llama

# of llama_cpp's context parameters: what keys and values depend on, and the layout of the cache
_CONTEXT = (
    "type_k", "type_v", "swa_full", "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor",
    "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip


class Header(BaseModel):
    """What a session file says of itself (docs/session-format.md)."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    package: str
    llama_cpp: str
    model_hash: str
    model_path: str
    profile_hash: Optional[str]
    profile: Optional[Dict[str, Any]]
    context: Dict[str, Any]
    options: Dict[str, Any]
    n_tokens: int
    seed: int
    budgets: List[int]
    protected: List[int]
    system_tokens: List[int]
    n_sinks: int = N_SINKS


def model_hash(llm: Llama) -> str:
    """ "sha256:..." of the model's tensors (all names, types, shapes, a sample of the weights), of the metadata but the
    names, the tokenizer's lists and the chat template, and of a LoRA. Quick: it reads at most 64 KB of each tensor.
    """
    cached = llm.__dict__.get("_model_hash")
    if cached is None:
        cached = llm.__dict__["_model_hash"] = _hash_model(llm)
    return str(cached)


def _hash_model(llm: Llama) -> str:
    gguf = GGUF.open(llm.model_path)
    digest = hashlib.sha256(gguf.hash().encode())
    for key, value in sorted(gguf.metadata.items()):
        if not key.startswith("general.") and "chat_template" not in key:
            digest.update(repr((key, value)).encode())
    if llm.lora_path:
        digest.update(repr((GGUF.open(llm.lora_path).hash(), llm.lora_scale)).encode())
    if llm.kv_overrides:
        digest.update(repr(sorted(llm.kv_overrides.items())).encode())
    return f"sha256:{digest.hexdigest()}"


def describe(llm: Llama) -> Header:
    """The header of what `llm` holds now."""
    compression = llm._compression
    profile = compression.profile if compression else None
    return Header(
        package=__version__,
        llama_cpp=_llama_cpp_version(),
        model_hash=model_hash(llm),
        model_path=os.path.abspath(llm.model_path),
        profile_hash=_hash_profile(profile),
        profile=profile.model_dump(mode="json", exclude_none=True) if profile else None,
        context=_context(llm),
        options=_options(llm),
        n_tokens=llm.n_tokens,
        seed=llm._seed,
        budgets=compression.current if compression else [],
        protected=list(compression.protection.named) if compression else [],
        system_tokens=list(compression.protection.system) if compression else [],
        n_sinks=compression.protection.n_sinks if compression else 0,
    )


def _llama_cpp_version() -> str:
    """ "llama.cpp <version> <commit>": the layout of the state is upstream's."""
    return library.version().partition(" ")[2].partition(" header ")[0]


def _hash_profile(profile: Any) -> Optional[str]:
    return None if profile is None else f"sha256:{hashlib.sha256(profile.to_json().encode()).hexdigest()}"


def _context(llm: Llama) -> Dict[str, Any]:
    return {name: getattr(llm.context_params, name) for name in _CONTEXT}


def _options(llm: Llama) -> Dict[str, Any]:
    """Arguments of the class with which the session can be taken up again, JSON's types only."""
    state = llm.__getstate__()
    names = ("n_ctx", *_CONTEXT, "lora_path", "lora_scale", "lora_base")
    kv = ("kv_budget", "kv_tail", "kv_prefill", "kv_memory", "kv_protect", "kv_guide", "kv_policy", "kv_rebase")
    return {name: state[name] for name in (*names, *kv) if name in state}


def differences(llm: Llama, header: Header) -> Iterator[str]:
    """Why a session does not fit an instance, each with its remedy."""
    ours = _llama_cpp_version()
    if header.llama_cpp != ours:
        yield (
            f"saved by compresskv_edge {header.package} with {header.llama_cpp}, this is {__version__} with {ours}: "
            "install that version, or save the session anew"
        )
    if header.model_hash != model_hash(llm):
        yield f"another model: saved with {header.model_path!r}, this is {llm.model_path!r}; load that one"
    profile = llm._compression.profile if llm._compression else None
    if header.profile_hash != _hash_profile(profile):
        yield f"another profile: saved with {_profile_name(header)}; load the model with kv_profile=<that one>"
    else:
        yield from _other_policy(llm, header)
    for name, value in _context(llm).items():
        if header.context.get(name) != value:
            yield f"{name} was {header.context.get(name)!r}, is {value!r}: load the model with the same {name}"


def saved_policy(header: Header) -> str:
    """The kv_policy of the instance that was saved."""
    return str(header.options.get("kv_policy", DEFAULT))


def _other_policy(llm: Llama, header: Header) -> Iterator[str]:
    """Policies may differ, but not in what they need beside keys and values."""
    compression, policy = llm._compression, saved_policy(header)
    if compression is None:
        return
    if not compression.run.recorder.idle:
        yield (
            f"kv_policy={compression.run.spec!r} writes queries down, which a session does not hold: load the model "
            f"with kv_policy={policy!r}"
        )
        return
    budget = header.options.get("kv_budget")
    window = attached_profile(policy, compression.profile, budget).settings.window
    if window != compression.window:
        yield (
            f"the observation window was {window} tokens, is {compression.window}: load the model with the same policy "
            f"and budget, kv_policy={policy!r}, kv_budget={budget!r}"
        )


def _profile_name(header: Header) -> str:
    if header.profile is None:
        return "none (the stock cache)"
    return f"{header.profile['model']['name']!r}, {header.profile['provenance']['how']}"
