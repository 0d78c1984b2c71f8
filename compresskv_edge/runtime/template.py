"""Chat templates of GGUF files, which anybody may have written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Dict, Optional, Tuple

from ..errors import ModelError
from . import binding

_DEFAULT = "tokenizer.chat_template"

_log = logging.getLogger(__name__)


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
