"""Models that think aloud before they answer: the marks around their thoughts, by their chat templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .form import SPACE

_KNOWN = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, and most others
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<seed:think>", "</seed:think>"),
    ("<think:opensource>", "</think:opensource>"),  # Hunyuan
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
)


@dataclass(frozen=True)
class Thinking:
    """What begins thoughts and what ends them."""

    begin: str
    end: str

    def is_open(self, prompt: str) -> bool:
        """A prompt ends within thoughts, so that the answer begins there."""
        return prompt.rstrip(SPACE).endswith(self.begin)


def thinking_of(template: str) -> Optional[Thinking]:
    """The marks that a template's source knows; None if it knows of no thoughts."""
    return next((Thinking(*pair) for pair in _KNOWN if any(mark in template for mark in pair)), None)
