"""Prose for prompts: sentences of a small grammar, the same on every machine."""

import random

_PEOPLE = (
    "the miller", "an old sailor", "the clerk", "her brother", "the watchmaker", "a young doctor", "the gardener",
    "the postman", "a tired traveller", "the schoolmaster", "my neighbour", "the captain",
)  # fmt: skip
_DEEDS = (
    "counted the sacks", "wrote a long letter", "repaired the gate", "looked for the lost key", "painted the boat",
    "asked about the weather", "carried water to the barn", "sold three horses", "drew a map of the coast",
    "told the story again", "opened the window", "measured the distance to the bridge",
)  # fmt: skip
_PLACES = (
    "in the village", "by the river", "behind the mill", "at the harbour", "near the old church",
    "on the northern road", "under the chestnut tree", "in a room without a lamp",
)  # fmt: skip
_TIMES = ("in the morning", "after the storm", "before supper", "on a Tuesday", "in the year of the flood", "at dusk")
_ENDS = (
    "and nobody noticed", "because the road was closed", "although it had begun to rain", "while the dog slept",
    "so that the work could go on", "but the answer came too late", "and then everything was quiet",
)  # fmt: skip


def prose(n_sentences: int, seed: int = 0) -> str:
    """`n_sentences` sentences, about 90 characters each, in paragraphs of six."""
    rng = random.Random(seed)
    paragraphs = [[_sentence(rng) for _ in range(min(6, n_sentences - i))] for i in range(0, n_sentences, 6)]
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs)


def _sentence(rng: random.Random) -> str:
    words = [rng.choice(part) for part in (_PEOPLE, _DEEDS, _PLACES, _TIMES)]
    if rng.random() < 0.5:  # time first
        words = [words[-1] + ",", *words[:-1]]
    if rng.random() < 0.6:
        words[-1] += ", " + rng.choice(_ENDS)
    text = " ".join(words)
    number = f" It was number {rng.randrange(1, 1000)}." if rng.random() < 0.2 else ""
    return text[0].upper() + text[1:] + "." + number
