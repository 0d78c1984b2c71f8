"""Questions that ask for several facts at once."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import words as w
from facts import Fact, Lists, full_name, make_fact, thing
from kinds import KINDS, ORDINALS, attribute, stop


@dataclasses.dataclass(frozen=True)
class Group:
    """Facts that share a key and are asked for together; `answer` is filled by each fact in turn."""

    shared: str  # the field that is the shared key
    draw: Callable[[random.Random, Lists, int], list[Fact]]
    questions: dict[int, tuple[str, ...]]
    answer: str
    by_place: bool  # the order of the answer: as they stand in the document, or as they were drawn


def _stops(r: random.Random, s: Lists, n: int) -> list[Fact]:
    name = full_name(r, s)
    return [make_fact(KINDS, "stop", stop(r, s) | {"k": name, "k2": ORDINALS[i]}) for i in range(n)]


def _portrait(r: random.Random, s: Lists, n: int) -> list[Fact]:
    about, attributes = thing(r, s), r.sample(w.ATTRIBUTES, n)
    return [make_fact(KINDS, "attribute", attribute(r, s) | {"k": a, "k2": about}) for a in attributes]


_SUMMARIES = (
    "Sum up what the text says about the {k2}.",
    "Summarise the facts about the {k2}.",
    "What does the text say about the {k2}?",
)
GROUPS: dict[str, Group] = {
    "stops": Group(
        "k",
        _stops,
        {
            2: ("Name the first and the second stop of {k}.", "What are the first and the second stop of {k}?"),
            3: (
                "Name the first, the second and the third stop of {k}.",
                "What are the first, the second and the third stop of {k}?",
            ),
        },
        "{k2} {v}",
        False,
    ),
    "summary": Group("k2", _portrait, {2: _SUMMARIES, 3: _SUMMARIES}, "{k} {v}", True),
}
