"""Open a model for a chat: by file or by name, with the profile that the user asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

from ...calibration import auto
from ...engine import logs
from ...errors import CalibrationError, ChatError, CompressKVError, ModelError, UnsupportedModelError
from ...model import hub
from ...model.profile import Profile
from ...model.resolve import resolve
from ...model.sizes import ModelSizes
from ...runtime.llama import Llama

BUDGET = 1024
STOCK_CONTEXT = 8192  # without a profile the whole cache is allocated at once

_log = logging.getLogger(__name__)


def find_model(source: str) -> str:
    """Path of a model: a file, a name of the catalogue, or "repo/name:file.gguf" fetched from Hugging Face.

    Raises ModelError.
    """
    wanted = None if Path(source).expanduser().is_file() else hub.parse(source)
    if wanted is not None:
        return str(hub.fetch(wanted))
    path = resolve(source)
    if not Path(path).is_file():
        raise ModelError(
            f'there is no model {source!r}: give a .gguf file, a name that "compresskv pull" lists, or one on Hugging '
            "Face such as 'Qwen/Qwen2.5-0.5B-Instruct-GGUF:*q4_k_m.gguf'"
        )
    return path


def open_model(
    source: str,
    *,
    profile: str = "auto",
    budget: Union[int, float] = BUDGET,
    n_ctx: Optional[int] = None,
    options: Optional[Mapping[str, Any]] = None,
) -> Llama:
    """Load a model for a chat.

    profile: "auto" (measured once if there is none), "uniform" (uncalibrated), "none" (stock llama.cpp), a shipped
    name or a .json file. n_ctx: positions; None: the trained context, without a profile 8192 at most. options: more
    of llama_cpp.Llama. Raises ModelError, ChatError and what Llama raises.
    """
    path = find_model(source)
    more: dict[str, Any] = {"verbose": False, **(options or {})}
    try:
        if profile != "none":
            more.update(kv_profile=_profile(profile, path, more), kv_budget=budget)
        elif n_ctx is None:
            n_ctx = min(ModelSizes.from_gguf(path).n_ctx_train, STOCK_CONTEXT)
        with _loading(path):
            llm = Llama(path, n_ctx=n_ctx or 0, **more)
    except UnsupportedModelError as error:
        hint = "" if profile == "none" else "; --profile none chats with the full cache"
        raise ChatError(f"{error}{hint}") from error
    except CompressKVError:
        raise
    except ValueError as error:  # of llama_cpp: what is wrong stands in its log
        raise ChatError(
            f"llama.cpp cannot load {path!r} ({error}): see its log, all of it with compresskv -vv"
        ) from error
    if "tokenizer.chat_template" not in llm.metadata and not more.get("chat_format"):
        _log.warning("%s has no chat template: it may not be made for chats (--chat-format names one)", path)
    return llm


def _loading(path: str) -> Any:
    """Says on a terminal that it loads. The binding mutes all output meanwhile, so nothing turns."""
    from rich.console import Console

    console = Console(stderr=True)
    silent = logs.is_quiet() or not console.is_terminal
    return contextlib.nullcontext() if silent else console.status(f"loading {Path(path).name}")


def _profile(name: str, path: str, options: Mapping[str, Any]) -> Profile:
    if name == "uniform":
        return Profile.uniform(path)
    if name != "auto":
        return Profile.load(name)
    try:
        return auto.resolve(path, allow_calibration=False)
    except CalibrationError:
        _log.warning("no profile for this model yet: measuring one now, once, in minutes; Ctrl-C goes on without")
    try:
        return auto.resolve(path, llama_options=options)
    except KeyboardInterrupt:
        _log.warning("calibration stopped: going on uncalibrated; the next --profile auto goes on with it")
        return Profile.uniform(path)
