"""Words of the measured facts. Training lists and training prose hold none of them, whole; prepare.py sees to it.

Names are built from a head and a tail; of those, the heads are what training has never joined to a tail.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import words

HELD_WORDS = {
    "ADJECTIVES": (
        "antique cheerful clumsy crowded dented frosty gloomy greasy jolly lofty muddy oval peculiar quaint rainy "
        "rustic shabby spacious stormy upright woven wrinkled zesty lopsided crinkled speckled varnished"
    ),
    "NOUNS": (
        "anvil apron archway balcony bicycle bonfire bookcase bugle cannon chimney corridor dagger dinghy doorbell "
        "easel fireplace freighter gramophone hammock hourglass inkwell kayak kettledrum loom mortar necklace obelisk "
        "pavilion pendant pyramid raft scooter sledge sundial teapot tractor turret wardrobe windmill"
    ),
    "WOMEN": "Adele Barbara Camilla Deborah Gwen Hildegard Isabel Judith Linda Monica Sylvia Tamara Yvonne",
    "MEN": "Benjamin Dennis Francis Gerald Howard Kenneth Lawrence Roger Steffan Desmond Alvin Clarence",
    "JOBS": "acrobat architect banker butcher dancer florist grocer jeweller lecturer mechanic plasterer juggler",
    "ANIMALS": "antelope bat buffalo camel falcon giraffe heron kitten leopard moth otter panther robin walrus",
    "SURNAME_HEADS": "Ack Bal Cran Dor Elm Far Hod Ing Kell Lock Mad Pem Rad Sel Tur Wat",
    "SURNAME_TAILS": "bee combe hurst leigh more nall over sey thorpe",
    "TOWN_HEADS": "Ab Bram Ches Dray Ep Frod Gos Hun Ips Kid Lud Mal New Ot Pres Rip Sed Tam Ux War",
    "TOWN_TAILS": "anger beck cester fleet gham holme ington moor ness pool sall tree worthy",
}
WHOLE = tuple(name for name in HELD_WORDS if "_" not in name)
_PATTERN = re.compile(rf"\b(?:{'|'.join(' '.join(HELD_WORDS[n] for n in WHOLE).split())})(?:e?s)?\b", re.IGNORECASE)


def holds_none(text: str) -> bool:
    return _PATTERN.search(text) is None


@contextlib.contextmanager
def held_out_words() -> Iterator[None]:
    """The kinds of facts draw from the held-out lists inside this block."""
    old = {name: getattr(words, name) for name in HELD_WORDS}
    try:
        for name, text in HELD_WORDS.items():
            setattr(words, name, text.split())
        yield
    finally:
        for name, value in old.items():
            setattr(words, name, value)
