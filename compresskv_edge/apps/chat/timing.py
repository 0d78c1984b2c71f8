"""How long the last answer took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Of the last answer. Tokens that were run (not those found in the cache), tokens generated, and seconds.

    `n_timed` tokens came within `answer_seconds`: those after the first piece, which comes with the prompt.
    """

    n_prompt: int = 0
    n_generated: int = 0
    n_timed: int = 0
    prompt_seconds: float = 0.0
    reading_seconds: float = 0.0  # of the document, before its question was run
    answer_seconds: float = 0.0
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Of the answer; 0.0 if it was too short to say."""
        return self.n_timed / self.answer_seconds if self.n_timed > 1 and self.answer_seconds else 0.0
