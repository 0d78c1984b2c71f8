"""What a session file may have opened: one model of this machine, and only if its hash is the one that was saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Dict, Optional

from ...errors import SessionError, UnsupportedModelError
from ...model.gguf_file import GGUF
from .header import Header, hash_of


def model_path(header: Header) -> str:
    """Where the file says that the model is. Raises SessionError if that is no file of this machine."""
    path = header.model_path
    on_another_machine = path[:2] in ("//", "\\\\")  # to look at it would tell Windows' password hash
    # os.path: pathlib raises for a name that is too long
    if "\0" in path or on_another_machine or not os.path.isfile(path):
        raise SessionError(f"the session's model {path!r:.300} is not there: say where it is with model_path")
    return path


def arguments(header: Header, path: str, given: Mapping[str, Any]) -> Dict[str, Any]:
    """Of `Llama`: what the file may choose, and what the caller gives instead. Nothing is loaded yet.

    Raises SessionError if the model, or the LoRA that the caller names, is not the one of the session.
    """
    lora, has_lora = header.options.lora_path, bool(given.get("lora_path"))
    if lora and not has_lora:
        raise SessionError(f"the session was saved with the LoRA {lora!r}: say where it is with lora_path")
    res = {"kv_profile": header.profile, **header.options.arguments(lora=has_lora), **given}
    _check_hash(header, path, res)
    if "n_ctx" not in given and res["kv_profile"] is None:
        _check_size(header, path)
    return res


def _check_hash(header: Header, path: str, wanted: Mapping[str, Any]) -> None:
    lora = wanted.get("lora_path")
    try:
        found = hash_of(path, lora, wanted.get("lora_scale", 1.0), wanted.get("kv_overrides"))
    except UnsupportedModelError as error:
        raise SessionError(f"the session's model cannot be read: {error}") from error
    if found != header.model_hash:
        saved = _files(header.model_path, header.options.lora_path)
        raise SessionError(
            f"the session does not fit: another model: saved with {saved}, this is {_files(path, lora)}: "
            "say where the right one is with model_path (and lora_path)"
        )


def _files(model: str, lora: Optional[str]) -> str:
    return f"{model!r} and the LoRA {lora!r}" if lora else repr(model)


def _check_size(header: Header, path: str) -> None:
    """The stock cache takes memory for all of n_ctx, which a file must not choose at will."""
    metadata = GGUF.open(path).metadata
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if isinstance(trained, int) and header.options.n_ctx > max(trained, header.n_tokens + 1):
        raise SessionError(
            f"the session asks for n_ctx={header.options.n_ctx}, the model was trained for {trained} tokens: "
            "give n_ctx, if you want that much memory"
        )
