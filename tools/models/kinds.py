"""The kinds of facts."""

from __future__ import annotations

import random

import words as w
from facts import Fields, Kind, Lists, full_name, number, person, surname, thing, town


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


def attribute(r: random.Random, s: Lists) -> Fields:
    value = r.choice((thing(r, s), town(r), number(r, s, 3), s.pick(r, w.COLOURS), surname(r)))
    return {"k": r.choice(w.ATTRIBUTES), "k2": thing(r, s), "v": value}


def _action(r: random.Random, s: Lists) -> Fields:
    return {"k": full_name(r, s), "k2": r.choice(w.VERBS), "v": f"the {thing(r, s)}"}


def stop(r: random.Random, s: Lists) -> Fields:
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
        attribute,
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
        stop,
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
