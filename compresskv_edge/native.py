"""The library's selection, engine/select.py, under its public name."""

from .engine.select import select_tokens

__all__ = ["select_tokens"]
