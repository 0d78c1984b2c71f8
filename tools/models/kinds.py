"""The kinds of facts, and the questions that ask for several facts at once."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import words as w
from facts import Fact, Fields, Kind, Lists, full_name, make_fact, number, person, surname, thing, town


def _keep(r: random.Random, s: Lists) -> Fields:
    name, their = person(r, s)
    return {"k": name, "their": their, "k2": r.choice(s.nouns), "v": f"the {s.pick(r, w.SITES)} {s.pick(r, w.ROOMS)}"}


def _pet(r: random.Random, s: Lists) -> Fields:
    return {"k": person(r, s)[0], "k2": s.pick(r, w.ANIMALS), "v": surname(r)}


def _password(r: random.Random, s: Lists) -> Fields:
    value = f"{s.pick(r, w.ADJECTIVES)} {s.pick(r, w.ANIMALS)} {s.pick(r, w.NOUNS)}"
    return {"k": thing(r, s), "v": value}


def _meal(r: random.Random, s: Lists) -> Fields:
    return {"k": surname(r), "v": f"{s.pick(r, w.COOKED)} {s.pick(r, w.FOODS)} with {s.pick(r, w.FOODS)}"}


def _attribute(r: random.Random, s: Lists) -> Fields:
    value = r.choice((thing(r, s), town(r), number(r, s, 3), s.pick(r, w.COLOURS), surname(r)))
    return {"k": r.choice(w.ATTRIBUTES), "k2": thing(r, s), "v": value}


def _action(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "k2": r.choice(w.VERBS), "v": f"the {thing(r, s)}"}


def _stop(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "k2": r.choice(ORDINALS), "v": town(r)}


def _trade(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "v": f"the {thing(r, s)}", "v2": r.choice((town(r), full_name(r, s)))}


def _meeting(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "v": f"the {s.pick(r, w.JOBS)}", "v2": town(r)}


def _luggage(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "v": f"a {thing(r, s)}", "v2": f"a {thing(r, s)}", "v3": f"a {thing(r, s)}"}


ORDINALS = ("first", "second", "third", "fourth")

KINDS: dict[str, Kind] = {
    "code": Kind(
        (
            "The secret code of the {k} is {v}.",
            "To unlock the {k}, dial the digits {v}.",
            "Remember that the combination for the {k} is {v}.",
            "Whoever stands before the {k} must enter {v}.",
            "The {k} opens only for {v}.",
        ),
        (
            "Which code opens the {k}?",
            "What number must be entered to open the {k}?",
            "How is the {k} unlocked?",
            "What are the digits for the {k}?",
            "Which combination does the {k} have?",
        ),
        lambda r, s: {"k": thing(r, s), "v": number(r, s, 4)},
    ),
    "keep": Kind(
        (
            "{k} keeps {their} {k2} in {v}.",
            "{k} has put {their} {k2} into {v}.",
            "{k} hid the {k2} behind {v}.",
            "{k} always leaves {their} {k2} near {v}.",
        ),
        (
            "Where is the {k2} of {k} stored?",
            "Where would one find the {k2} owned by {k}?",
            "Where did {k} leave the {k2}?",
            "In which place is the {k2} of {k}?",
        ),
        _keep,
    ),
    "job": Kind(
        (
            "{k} is a {v} in {town}.",
            "Everyone knows {k}, the {v} of {town}.",
            "{k} works as a {v}.",
            "For many years {k} has been a {v}.",
        ),
        (
            "What is the profession of {k}?",
            "How does {k} earn a living?",
            "What is the job of {k}?",
            "What work does {k} do?",
        ),
        lambda r, s: {"k": full_name(r, s), "v": s.pick(r, w.JOBS), "town": town(r)},
    ),
    "colour": Kind(
        (
            "Last spring the {k} was painted {v}.",
            "Workers covered the {k} in {v} stripes.",
            "The builders of the {k} chose {v}.",
            "In the sun the {k} looks {v}.",
        ),
        (
            "What colours does the {k} have?",
            "Which two colours can be seen on the {k}?",
            "How is the {k} coloured?",
            "What does the {k} look like?",
        ),
        lambda r, s: {"k": thing(r, s), "v": f"{s.pick(r, w.COLOURS)} and {s.pick(r, w.COLOURS)}"},
    ),
    "price": Kind(
        (
            "The merchant sold the {k} for {v}.",
            "Whoever wanted the {k} paid {v}.",
            "The {k} was worth {v}.",
            "They asked for the {k} no less than {v}.",
        ),
        (
            "How much did the {k} cost?",
            "What was the price of the {k}?",
            "What did one pay for the {k}?",
            "How many crowns is the {k} worth?",
        ),
        lambda r, s: {"k": thing(r, s), "v": f"{number(r, s, r.choice((2, 3)))} crowns"},
    ),
    "pet": Kind(
        (
            "{k} has a tame {k2} called {v}.",
            "The {k2} that lives with {k} answers to {v}.",
            "{k} gave the {k2} the name {v}.",
        ),
        (
            "What is the name of the {k2} of {k}?",
            "How did {k} name the {k2}?",
            "What is the {k2} of {k} called?",
        ),
        _pet,
    ),
    "food": Kind(
        (
            "The favourite dish of Captain {k} is {v}.",
            "Every Sunday Captain {k} orders {v}.",
            "Nothing pleases Captain {k} more than {v}.",
        ),
        (
            "What does Captain {k} like to eat best?",
            "Which meal should be served to Captain {k}?",
            "What is Captain {k} fond of eating?",
        ),
        _meal,
    ),
    "password": Kind(
        (
            "Visitors enter the {k} by whispering {v}.",
            "The guards of the {k} only accept {v}.",
            "At the {k} one has to say {v}.",
        ),
        (
            "What is the password for the {k}?",
            "Which words must be spoken at the {k}?",
            "What do I say to enter the {k}?",
        ),
        _password,
    ),
    "phone": Kind(
        ("The telephone number of {k} is {v}.", "To speak with {k}, ring {v}.", "{k} can be reached under {v}."),
        (
            "How can one call {k}?",
            "What should be dialled to reach {k}?",
            "Which number belongs to {k}?",
            "Under which number do I reach {k}?",
        ),
        lambda r, s: {"k": full_name(r, s), "v": number(r, s, 6)},
    ),
    "attribute": Kind(
        (
            "The {k} of the {k2} is {v}.",
            "It is said that the {k} of the {k2} was {v}.",
            "As for its {k}, the {k2} had {v}.",
        ),
        (
            "What is the {k} of the {k2}?",
            "What do we know about the {k} of the {k2}?",
            "Tell me the {k} of the {k2}.",
            "Do you know the {k} of the {k2}?",
        ),
        _attribute,
    ),
    "action": Kind(
        ("{k} {k2} {v}.", "One morning {k} {k2} {v}.", "In those days {k} often {k2} {v}."),
        ("What was it that {k} {k2}?", "Which thing has {k} {k2}?", "Say what {k} {k2}."),
        _action,
    ),
    "seat": Kind(
        (
            "{k} travels to {v} next week.",
            "The letter to {k} was sent to {v}.",
            "{k} was born in {v}.",
            "The family of {k} has a house in {v}.",
        ),
        (
            "Which town is linked with {k}?",
            "What place does the text name for {k}?",
            "With which place is {k} connected?",
        ),
        lambda r, s: {"k": full_name(r, s), "v": town(r)},
    ),
    "stop": Kind(
        (
            "The {k2} stop of {k} is {v}.",
            "On the {k2} day {k} comes to {v}.",
            "{k} will make the {k2} stop at {v}.",
        ),
        (
            "What is the {k2} stop of {k}?",
            "Where does {k} stop on the {k2} day?",
            "Which place is the {k2} one on the journey of {k}?",
        ),
        _stop,
    ),
    "trade": Kind(  # two words of one sentence that do not stand together
        (
            "{k} bought {v} at the market, when the days were short, from {v2}.",
            "{k} got {v} before the war from {v2}.",
            "{k} took {v}, which had cost a fortune, from {v2}.",
        ),
        (
            "What did {k} get, and from where?",
            "Which thing did {k} buy, and from whom?",
            "What does {k} have now, and where is it from?",
        ),
        _trade,
        "{v} from {v2}",
    ),
    "meeting": Kind(
        (
            "{k} met {v} one evening, after the rain, near {v2}.",
            "{k} talked to {v} about the harvest near {v2}.",
            "{k} quarrelled with {v}, and it lasted an hour, near {v2}.",
        ),
        (
            "Whom did {k} meet, and near which town?",
            "Who was with {k}, and near what place?",
            "With whom did {k} speak, and where?",
        ),
        _meeting,
        "{v} near {v2}",
    ),
    "luggage": Kind(  # several values of one sentence
        (
            "{k} packed {v}, {v2} and {v3}.",
            "In the bag of {k} were {v}, {v2} and {v3}.",
            "{k} came home with {v}, {v2} and {v3}.",
        ),
        ("What did {k} pack?", "Which three things did {k} have?", "What was in the bag of {k}?"),
        _luggage,
        "{v}, {v2} and {v3}",
    ),
}


def _history(r: random.Random, s: Lists) -> Fields:
    return {"k": thing(r, s), "v": full_name(r, s), "v2": f"{number(r, s, 3)} crowns", "v3": town(r)}


def _life(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "v": town(r), "v2": s.pick(r, w.JOBS), "v3": town(r)}


# Facts of several sentences that stand together; to ask for one is to ask for its summary.
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
    return [make_fact(KINDS, "stop", _stop(r, s) | {"k": name, "k2": ORDINALS[i]}) for i in range(n)]


def _portrait(r: random.Random, s: Lists, n: int) -> list[Fact]:
    about, attributes = thing(r, s), r.sample(w.ATTRIBUTES, n)
    return [make_fact(KINDS, "attribute", _attribute(r, s) | {"k": a, "k2": about}) for a in attributes]


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
