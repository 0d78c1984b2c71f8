"""`compresskv chat demo`: the model that ships with the package, and a text to ask."""

from __future__ import annotations

import functools
import random

from ...evaluate import haystack
from ...model.packaged import model_path as model_path
from ..demo import scene as demo
from .document import Document

NAME = "demo"
BUDGET = demo.BUDGET

_N_WORDS = 1600  # 2770 tokens: room for some forty questions before the context of 4096 ends


@functools.lru_cache(maxsize=1)
def document() -> Document:
    """A generated text that hides the facts of `compresskv demo`, the same every time."""
    placed = [(depth, fact.sentence) for depth, fact in demo.facts()]
    text = haystack.document(random.Random(demo.SEED), placed, _N_WORDS, lambda part: len(part.split()))
    return Document("the demo's text", text.strip())


def welcome(asked: Document) -> str:
    """One line: what this small model can be asked about a document."""
    if asked is not document():
        return "It only finds facts that the text states: codes, places, jobs, colours, prices."
    return f"It only finds facts in its text. Ask: {demo.facts()[1][1].question}"
