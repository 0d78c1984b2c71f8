"""A haystack without end: the journal of a harbour, made from word lists. Where written text ends, it goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

_RIGS = ("barque", "brig", "cutter", "dredger", "ketch", "lugger", "pilot boat", "schooner", "sloop", "steamer", "tug")
_SHIPS = (
    "Amity", "Blue Heron", "Constance", "Daybreak", "Early Riser", "Fair Weather", "Good Intent", "Hopewell",
    "Industry", "Juniper", "Kittiwake", "Lively", "Mary Ellen", "Northern Light", "Old Harry", "Perseverance",
    "Quickstep", "Reliance", "Sea Holly", "Two Brothers", "Undaunted", "Venture", "Wanderer", "Young Tom",
)  # fmt: skip
_PORTS = (
    "Aldwick", "Brannoch", "Carrow", "Dunley", "Eastmere", "Farness", "Gullhaven", "Hythe End", "Inverlea", "Kelder",
    "Langholm", "Morwick", "Nettle Bay", "Orby", "Pentrose", "Ravensey", "Seaforth", "Thornby", "Ullness", "Wexcombe",
)  # fmt: skip
_CARGOES = (
    "barley", "barrels of tar", "bricks", "cider", "coal", "cod", "cork", "flax", "glass", "granite", "hides", "lime",
    "mackerel", "oats", "oranges", "paper", "pitch", "rope", "salt", "sawn timber", "slate", "sugar", "tin", "wool",
)  # fmt: skip
_WINDS = ("easterly", "north-easterly", "northerly", "north-westerly", "southerly", "south-westerly", "westerly")
_FORCES = ("A light", "A fresh", "A strong", "A gusty", "A cold", "A steady", "A failing")
_SKIES = (
    "rain before noon", "haze over the bar", "a clear sky", "low cloud", "sleet towards evening", "a heavy dew",
    "thunder inland", "good visibility", "a swell from the west",
)  # fmt: skip
_JOBS = (
    "cleared weed from the slip", "greased the crane", "mended the fog bell", "painted the mooring posts",
    "relaid the planks of the jetty", "repaired the breakwater", "replaced the lamp of the pier", "sounded the channel",
    "spliced the ferry rope", "swept the customs shed", "tarred the ladders", "weighed the anchor chain",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def entries(rng: random.Random) -> Iterator[str]:
    """Sentences, day after day."""
    day = rng.randrange(336)
    while True:
        yield f"On the {_ordinal(day % 28 + 1)} of {_MONTHS[day // 28 % 12]} {_weather(rng)}."
        for _ in range(rng.randint(2, 6)):
            yield rng.choice((_arrival, _departure, _work))(rng)
        day += 1


def _weather(rng: random.Random) -> str:
    force, wind, sky = rng.choice(_FORCES), rng.choice(_WINDS), rng.choice(_SKIES)
    return f"the entry reads: {force[0].lower()}{force[1:]} {wind} wind, {sky}, the glass at {_glass(rng)}"


def _arrival(rng: random.Random) -> str:
    rig, ship, port, cargo = (rng.choice(words) for words in (_RIGS, _SHIPS, _PORTS, _CARGOES))
    return f"The {rig} {ship} came in from {port} with {cargo}, drew {rng.randint(5, 19)} feet and paid {_dues(rng)}."


def _departure(rng: random.Random) -> str:
    rig, ship, port = (rng.choice(words) for words in (_RIGS, _SHIPS, _PORTS))
    tide = rng.choice(("morning", "evening"))
    return f"The {rig} {ship} left for {port} on the {tide} tide with {rng.randint(3, 30)} hands."


def _work(rng: random.Random) -> str:
    return f"{rng.randint(2, 9)} men {rng.choice(_JOBS)} and were done after {rng.randint(2, 11)} hours."


def _dues(rng: random.Random) -> str:
    return f"{rng.randint(1, 40)} shillings"


def _glass(rng: random.Random) -> str:
    return f"{rng.randint(284, 307) / 10:.1f} inches"


def _ordinal(day: int) -> str:
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
