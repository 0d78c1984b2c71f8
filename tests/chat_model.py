"""A small model with a chat template, its profile, and a document with facts for it."""

from __future__ import annotations

import functools
import random
from typing import Any

from compresskv_edge import Llama, Profile
from compresskv_edge.evaluate import haystack
from compresskv_edge.model.packaged import model_path

MODEL = model_path()
SAMPLING = {"temperature": 0, "max_tokens": 24}


def profile() -> Profile:
    return Profile.load("demo")


def load(**options: Any) -> Llama:
    defaults: dict[str, Any] = {"kv_profile": profile(), "kv_budget": 128, "n_ctx": 4096, "n_threads": 1}
    return Llama(MODEL, **{**defaults, "n_threads_batch": 1, "verbose": False, **options})


@functools.cache
def facts() -> list[haystack.Fact]:
    return haystack.draw_facts(random.Random(3), ["code", "keep", "job", "price"])


@functools.cache
def text(n_words: int = 500) -> str:
    """A document of about n_words words with the four facts."""
    placed = [(0.2 + 0.2 * i, fact.sentence) for i, fact in enumerate(facts())]
    return haystack.document(random.Random(3), placed, n_words, lambda part: len(part.split())).strip()
