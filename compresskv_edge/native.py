"""The library's selection, engine/native.py, under its public name."""

from .engine.native import select_tokens

__all__ = ["select_tokens"]
