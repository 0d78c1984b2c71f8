"""Facts of several sentences that stand together; to ask for one is to ask for its summary."""

from __future__ import annotations

import random

import words as w
from facts import Fields, Kind, Lists, full_name, number, thing, town
from kinds import KINDS


def _history(r: random.Random, s: Lists) -> Fields:
    return {"k": thing(r, s), "v": full_name(r, s), "v2": f"{number(r, s, 3)} crowns", "v3": town(r)}


def _life(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "v": town(r), "v2": s.pick(r, w.JOBS), "v3": town(r)}


PASSAGES: dict[str, Kind] = {
    "history": Kind(
        (
            "The {k} was built by {v}. It took a whole winter. In the end it cost {v2}. Today it stands in {v3}.",
            "The {k} has a long story. First {v} built it. Then somebody paid {v2} for it. Now it is seen in {v3}.",
            "Much is told of the {k}. It is the work of {v}, and nobody helped. The bill was {v2}. It went to {v3}.",
        ),
        (
            "Sum up the story of the {k}.",
            "Summarise what the text tells of the {k}.",
            "Give a short summary of the passage about the {k}.",
        ),
        _history,
        "built by {v} for {v2}, now in {v3}",
    ),
    "life": Kind(
        (
            "{k} was born in {v}. There was little money in the house. A {v2} has to work hard. The grave is in {v3}.",
            "About {k} we know this. The family came from {v}. An uncle was a {v2}, and so the child became one. The "
            "end came in {v3}.",
            "{k} left {v} before the war. It was not easy to live as a {v2}. At last there was a small house in {v3}.",
        ),
        (
            "Sum up the life of {k}.",
            "Summarise what the text tells of {k}.",
            "Give a short summary of the passage about {k}.",
        ),
        _life,
        "from {v}, a {v2}, last in {v3}",
    ),
}
ALL_KINDS = KINDS | PASSAGES
