"""What a session says of itself: which model, profile and versions it belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Dict, List, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...engine import library
from ...errors import SessionError
from ...model.gguf_file import GGUF
from ...model.profile import Profile
from ...version import __version__
from .. import binding
from ..attached import attached_profile
from ..prefill import Opened, compression_of
from ..protection import N_SINKS
from .options import CONTEXT, MAX_TOKENS, Context, Options, context_of, options_of

_MAX_LAYERS = 4096
_UNBOUNDED = 1 << 30  # tokens, of a policy that evicts nothing

Sha256 = Annotated[str, Field(strict=True, pattern="^sha256:[0-9a-f]{64}$")]
Tokens = List[Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]]


class Header(BaseModel):
    """What a session file says of itself (docs/session-format.md). Nothing in it is believed beyond its bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    package: Annotated[str, Field(strict=True, max_length=100)]
    llama_cpp: Annotated[str, Field(strict=True, max_length=200)]
    model_hash: Sha256
    model_path: Annotated[str, Field(strict=True, max_length=1 << 15)]
    profile_hash: Optional[Sha256]
    profile: Optional[Dict[str, Any]]
    context: Context
    options: Options
    n_tokens: Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
    seed: Annotated[int, Field(strict=True, ge=-(1 << 64), lt=1 << 64)]
    budgets: Annotated[List[Annotated[int, Field(strict=True, ge=0, le=_UNBOUNDED)]], Field(max_length=_MAX_LAYERS)]
    protected: Annotated[Tokens, Field(max_length=MAX_TOKENS)]
    system_tokens: Annotated[Tokens, Field(max_length=MAX_TOKENS)]
    n_sinks: Annotated[int, Field(strict=True, ge=0, le=N_SINKS)] = N_SINKS

    @model_validator(mode="after")
    def _fits(self) -> Header:
        if self.profile_hash != _hash_profile(None if self.profile is None else Profile.load(self.profile)):
            raise ValueError("profile_hash is not that of the profile")
        if any(a >= b for a, b in zip(self.protected, self.protected[1:])):
            raise ValueError("protected positions do not ascend")
        if self.context.model_dump() != self.options.model_dump(include=set(CONTEXT)):
            raise ValueError("options and context disagree")
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any], name: str) -> Header:
        """A header that was read from a file. Raises SessionError that names each field that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}"[:200] for e in error.errors()[:5]
            )
            raise SessionError(
                f"{name} has a header that this version does not read ({wrong}): save it anew"
            ) from error


def model_hash(llm: Opened) -> str:
    """`hash_of` a loaded model."""
    cached = llm.__dict__.get("_model_hash")
    if cached is None:
        cached = llm.__dict__["_model_hash"] = hash_of(llm.model_path, llm.lora_path, llm.lora_scale, llm.kv_overrides)
    return str(cached)


def hash_of(
    model_path: str,
    lora_path: Optional[str] = None,
    lora_scale: float = 1.0,
    kv_overrides: Optional[Mapping[str, Any]] = None,
) -> str:
    """ "sha256:..." of the model's tensors (all names, types, shapes, a sample of the weights), of the metadata but the
    names, the tokenizer's lists and the chat template, and of a LoRA. Quick: it reads at most 64 KB of each tensor, and
    loads nothing. Raises UnsupportedModelError.
    """
    gguf = GGUF.open(model_path)
    digest = hashlib.sha256(gguf.hash().encode())
    for key, value in sorted(gguf.metadata.items()):
        if not key.startswith("general.") and "chat_template" not in key:
            digest.update(repr((key, value)).encode())
    if lora_path:
        digest.update(repr((GGUF.open(lora_path).hash(), lora_scale)).encode())
    if kv_overrides:
        digest.update(repr(sorted(kv_overrides.items())).encode())
    return f"sha256:{digest.hexdigest()}"


def describe(llm: Opened) -> Header:
    """The header of what `llm` holds now. Raises SessionError for options that a file cannot hold."""
    compression = compression_of(llm)
    profile = compression.profile if compression else None
    try:
        return Header(
            package=__version__,
            llama_cpp=_llama_cpp_version(),
            model_hash=model_hash(llm),
            model_path=os.path.abspath(llm.model_path),
            profile_hash=_hash_profile(profile),
            profile=profile.model_dump(mode="json", exclude_none=True) if profile else None,
            context=Context(**context_of(llm)),
            options=Options(**options_of(llm)),
            n_tokens=llm.n_tokens,
            seed=binding.seed(llm),
            budgets=compression.current if compression else [],
            protected=list(compression.protection.named) if compression else [],
            system_tokens=list(compression.protection.system) if compression else [],
            n_sinks=compression.protection.n_sinks if compression else 0,
        )
    except ValidationError as error:
        raise SessionError(f"a session cannot hold how this model was loaded: {error}") from error


def _llama_cpp_version() -> str:
    """ "llama.cpp <version> <commit>": the layout of the state is upstream's."""
    return library.version().partition(" ")[2].partition(" header ")[0]


def _hash_profile(profile: Any) -> Optional[str]:
    return None if profile is None else f"sha256:{hashlib.sha256(profile.to_json().encode()).hexdigest()}"


def differences(llm: Opened, header: Header) -> Iterator[str]:
    """Why a session does not fit an instance, each with its remedy."""
    ours = _llama_cpp_version()
    if header.llama_cpp != ours:
        yield (
            f"saved by compresskv_edge {header.package} with {header.llama_cpp}, this is {__version__} with {ours}: "
            "install that version, or save the session anew"
        )
    if header.model_hash != model_hash(llm) and header.model_path == llm.model_path:
        yield (
            f"another model: {llm.model_path!r} was saved with another LoRA, lora_scale or kv_overrides, or the file "
            "has changed since; load it as it was"
        )
    elif header.model_hash != model_hash(llm):
        yield f"another model: saved with {header.model_path!r}, this is {llm.model_path!r}; load that one"
    compression = compression_of(llm)
    profile = compression.profile if compression else None
    if header.profile_hash != _hash_profile(profile):
        yield f"another profile: saved with {_profile_name(header)}; load the model with kv_profile=<that one>"
    else:
        yield from _other_policy(llm, header)
    for name, value in context_of(llm).items():
        if getattr(header.context, name) != value:
            yield f"{name} was {getattr(header.context, name)!r}, is {value!r}: load the model with the same {name}"


def saved_policy(header: Header) -> str:
    """The kv_policy of the instance that was saved."""
    return header.options.kv_policy


def _other_policy(llm: Opened, header: Header) -> Iterator[str]:
    """Policies may differ, but not in what they need beside keys and values."""
    compression, policy = compression_of(llm), saved_policy(header)
    if compression is None:
        return
    if not compression.run.recorder.idle:
        yield (
            f"kv_policy={compression.run.spec!r} writes queries down, which a session does not hold: load the model "
            f"with kv_policy={policy!r}"
        )
        return
    budget = header.options.kv_budget
    try:
        window = attached_profile(policy, compression.profile, budget).settings.window
    except ValueError as error:
        yield f"kv_policy={policy!r} is not known here: {error}"
        return
    if window != compression.window:
        yield (
            f"the observation window was {window} tokens, is {compression.window}: load the model with the same policy "
            f"and budget, kv_policy={policy!r}, kv_budget={budget!r}"
        )


def _profile_name(header: Header) -> str:
    if header.profile is None:
        return "none (the stock cache)"
    return f"{header.profile['model']['name']!r}, {header.profile['provenance']['how']}"
