"""A small model with a chat template, its profile, and a document with facts for it."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from compresskv_edge import Llama, Profile
from compresskv_edge.evaluate import haystack
from compresskv_edge.profile import Settings

FOLDER = Path(__file__).parent / "models"
MODEL = str(FOLDER / "demo-candidate-q8_0.gguf")
SAMPLING = {"temperature": 0, "max_tokens": 24}


@functools.cache
def profile() -> Profile:
    scores = json.loads((FOLDER / "demo-candidate.srh.json").read_text())
    ranked = tuple(tuple(sorted(range(len(row)), key=lambda h: -row[h])) for row in scores)
    return Profile.uniform(MODEL).model_copy(update={"heads_ranked": ranked, "settings": Settings(n_heads=2)})


def load(**options: Any) -> Llama:
    defaults: dict[str, Any] = {"kv_profile": profile(), "kv_budget": 128, "n_ctx": 4096, "n_threads": 1}
    return Llama(MODEL, **{**defaults, "n_threads_batch": 1, "verbose": False, **options})


@functools.cache
def facts() -> list[haystack.Fact]:
    return haystack.draw_facts(random.Random(3), ["code", "keep", "job", "price"])


@functools.cache
def text(n_words: int = 450) -> str:
    """A document of about n_words words with the four facts."""
    placed = [(0.2 + 0.2 * i, fact.sentence) for i, fact in enumerate(facts())]
    return haystack.document(random.Random(3), placed, n_words, lambda part: len(part.split())).strip()
