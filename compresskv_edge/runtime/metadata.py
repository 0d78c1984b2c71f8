"""The words in a GGUF, which anybody may have written: bytes that are no UTF-8, templates that do not compile."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from typing import Any, Callable, Dict, Optional, Tuple

from ..errors import ModelError
from . import binding

_DEFAULT = "tokenizer.chat_template"

_log = logging.getLogger(__name__)


def read(model: Any) -> Dict[str, str]:
    """The keys and values of a model (llama_model_p). The binding's reader raises at a byte that is no UTF-8."""
    c = binding.llama_cpp

    def text(ask: Callable[..., int], i: int) -> str:
        n = ask(model, i, ctypes.create_string_buffer(1), 1)
        buffer = ctypes.create_string_buffer(n + 1)
        ask(model, i, buffer, n + 1)
        return buffer.value.decode("utf-8", errors="replace")

    keys, values = c.llama_model_meta_key_by_index, c.llama_model_meta_val_str_by_index
    return {text(keys, i): text(values, i) for i in range(c.llama_model_meta_count(model))}


def usable(metadata: Mapping[str, str], path: str) -> Tuple[Dict[str, str], Optional[ModelError]]:
    """Metadata without the templates that do not compile: the binding compiles all of them, whether they are used.

    And the error for a model that is to be used with its own template, if that is one of them.
    """
    kept, wrong = dict(metadata), None
    for name in [name for name in metadata if name == _DEFAULT or name.startswith(f"{_DEFAULT}.")]:
        error = _error_of(metadata[name])
        if error is None:
            continue
        _log.info("%s of %s does not compile, it is left out: %s", name, path, error)
        del kept[name]
        if name == _DEFAULT:
            wrong = ModelError(
                f"the chat template of {path!r} does not compile ({error}): name another format with chat_format "
                "(--chat-format), such as chatml"
            )
    return kept, wrong


def _error_of(template: str) -> Optional[Exception]:
    try:
        binding.llama_chat_format.Jinja2ChatFormatter(template, eos_token="", bos_token="")
    except Exception as error:  # jinja2's, or a RecursionError
        return error
    return None
