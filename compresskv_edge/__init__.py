"""CompressKV for llama.cpp: long contexts in small memory.

>>> from compresskv_edge import Llama
>>> llm = Llama("model.gguf", kv_profile="profile.json", kv_budget=1024, n_ctx=32768)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .calibration import calibrate
    from .model.profile import Profile
    from .runtime.batch import Batch
    from .runtime.dropin import replace_llama
    from .runtime.llama import KVStats, Llama
    from .runtime.sequences import Sequences

__all__ = ["Batch", "KVStats", "Llama", "Profile", "Sequences", "__version__", "calibrate", "replace_llama"]

_HOME = {
    "Batch": "runtime.batch",
    "KVStats": "runtime.llama",
    "Llama": "runtime.llama",
    "Profile": "model.profile",
    "Sequences": "runtime.sequences",
    "calibrate": "calibration",
    "replace_llama": "runtime.dropin",
}


def __getattr__(name: str) -> Any:
    # imported when asked for: the pure parts of the package work without the native library
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def _offer_library() -> None:
    from .engine.library import offer

    offer()


def _hand_in_calibration() -> None:
    """What kv_profile="auto" asks for: the room of models at work is below the one that calibrates them."""
    from .runtime.automatic import hand_in

    def resolve(*args: Any, **options: Any) -> Profile:
        from .calibration.auto import resolve

        return resolve(*args, **options)

    hand_in(resolve)


_offer_library()
_hand_in_calibration()
