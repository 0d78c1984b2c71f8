"""The specification of the selection, method/scoring.py, under its public name."""

from .method.scoring import pool, select_tokens, token_scores, window_attention

__all__ = ["pool", "select_tokens", "token_scores", "window_attention"]
