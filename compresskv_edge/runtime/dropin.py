"""`replace_llama`: other libraries that build a `llama_cpp.Llama` by themselves build ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ..errors import LibraryError
from .llama import Llama, llama_cpp


def replace_llama() -> None:
    """Put `compresskv_edge.Llama` in the place of `llama_cpp.Llama`, for this process.

    LangChain, LlamaIndex and others import `llama_cpp.Llama` and hand their `model_kwargs` to it: after this call
    `kv_profile`, `kv_budget` and the other arguments of ours work there. Without them our class is the stock one.
    Call it before you import the other library. Calling it twice is harmless.

    Raises:
        LibraryError: stock llama.cpp is loaded already, or a module holds the stock class already. That module would
            take `kv_profile` and ignore it without a word.
    """
    stock = next(each for each in Llama.__mro__ if each.__module__.startswith("llama_cpp."))
    holders = sorted(_modules_with(stock))
    if holders:
        raise LibraryError(
            f"{', '.join(holders)} imported llama_cpp's own Llama already: "
            "call compresskv_edge.replace_llama() before importing it"
        )
    llama_cpp.Llama = llama_cpp.llama.Llama = Llama


def _modules_with(stock: Any) -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        own = name.split(".")[0] in ("llama_cpp", "compresskv_edge")
        if not own and getattr(module, "__dict__", {}).get("Llama") is stock:
            yield name
