"""From a GGUF to its profile: which heads retrieve, and what compression costs each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .corpus import Corpus, Needle
from .progress import Progress
from .prompts import QUICK, THOROUGH, Plan

if TYPE_CHECKING:
    from .runner import calibrate, fit_to_context

__all__ = ["QUICK", "THOROUGH", "Corpus", "Needle", "Plan", "Progress", "calibrate", "fit_to_context"]


def __getattr__(name: str) -> Any:
    # imported when asked for: the pure parts work without the native library
    if name not in ("calibrate", "fit_to_context"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import runner

    return getattr(runner, name)
