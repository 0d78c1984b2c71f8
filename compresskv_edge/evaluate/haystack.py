"""Text for needle tests, made from word lists: a document of plain sentences, and facts to hide in it.

The demo model learned facts in such words and phrasings and answers them after "Question: ... Answer:"
(tools/models); the hay is in no training text. Nothing here depends on a model: the same seed gives the same text
everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

TokenCounter = Callable[[str], int]


@dataclass(frozen=True)
class Fact:
    """A sentence that answers a question. `key` is what it is about: no two facts of a document may share one."""

    kind: str
    key: str
    sentence: str
    question: str
    answer: str


@dataclass(frozen=True)
class _Kind:
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


_THING = "{adjective} {noun}"

_KINDS = {
    "code": _Kind(
        ("The secret code of the {thing} is {answer}.", "To unlock the {thing}, dial the digits {answer}."),
        ("Which code opens the {thing}?", "What number must be entered to open the {thing}?"),
        "{digits:.4}",
    ),
    "keep": _Kind(
        ("{first} keeps {their} {noun} in {answer}.", "{first} has put {their} {noun} into {answer}."),
        ("Where is the {noun} of {first} stored?", "Where would one find the {noun} owned by {first}?"),
        "the {site} {room}",
    ),
    "job": _Kind(
        ("{first} {last} is a {answer} in {town}.", "Everyone knows {first} {last}, the {answer} of {town}."),
        ("What is the profession of {first} {last}?", "How does {first} {last} earn a living?"),
        "{job}",
    ),
    "colour": _Kind(
        ("Last spring the {thing} was painted {answer}.", "Workers covered the {thing} in {answer} stripes."),
        ("What colours does the {thing} have?", "Which two colours can be seen on the {thing}?"),
        "{colour} and {other_colour}",
    ),
    "price": _Kind(
        ("The merchant sold the {thing} for {answer}.", "Whoever wanted the {thing} paid {answer}."),
        ("How much did the {thing} cost?", "What was the price of the {thing}?"),
        "{digits:.3} crowns",
    ),
    "pet": _Kind(
        ("{first} has a tame {animal} called {answer}.", "The {animal} that lives with {first} answers to {answer}."),
        ("What is the name of the {animal} of {first}?", "How did {first} name the {animal}?"),
        "{last}",
    ),
    "food": _Kind(
        ("The favourite dish of Captain {last} is {answer}.", "Every Sunday Captain {last} orders {answer}."),
        ("What does Captain {last} like to eat best?", "Which meal should be served to Captain {last}?"),
        "{cooked} {meal} with {side}",
    ),
    "password": _Kind(
        ("Visitors enter the {thing} by whispering {answer}.", "The guards of the {thing} only accept {answer}."),
        ("What is the password for the {thing}?", "Which words must be spoken at the {thing}?"),
        "{other_adjective} {animal} {other_noun}",
    ),
    "phone": _Kind(
        ("The telephone number of {first} {last} is {answer}.", "To speak with {first} {last}, ring {answer}."),
        ("How can one call {first} {last}?", "What should be dialled to reach {first} {last}?"),
        "{digits:.6}",
    ),
}

KINDS = tuple(_KINDS)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ADJECTIVES = _words(
    "amber ancient black blue brass broken clever copper crimson dusty empty frozen gentle golden grand green hidden "
    "hollow iron ivory lazy leather little lonely marble misty narrow noble old orange patient pearl plain proud "
    "purple quiet royal rusty scarlet secret silver sleepy snowy stone sunny tall velvet violet wicker wooden yellow"
)
_NOUNS = _words(
    "anchor barrel basket bell bench bottle box bridge broom bucket cabin camera candle cart chest clock coin compass "
    "crown cup desk drawer drum engine fence ferry flag flute fountain gate hammer harp helmet kettle key ladder lamp "
    "lantern map mirror needle oven painting piano pump ring saddle shield spoon statue sword table telescope tent "
    "tower trumpet tunnel umbrella vault violin wagon whistle"
)
_WOMEN = _words("Alice Anna Bella Clara Edith Fiona Greta Helen Ingrid Julia Laura Marta Nora Paula Ruth Vera")
_MEN = _words("Adam Boris Carl David Erik Felix George Hugo Ivan Jonas Leon Martin Oscar Peter Simon Walter")
_LAST = _words(
    "Abbotson Anderfield Baldwin Berling Brownell Coleman Danley Eckhardt Fischer Goldstein Hartman Hoffner Janson "
    "Kessing Lindstad Lundshaw Mannerow Nelson Petersen Quinley Reinmark Sandquist Steinberg Sundell Tallister Weinert"
)
_TOWNS = _words(
    "Ashford Barwick Blackridge Coldhaven Dunmere Eastgate Fairhill Glenbrook Hazelwood Kirkdale Langport Marstead "
    "Northwell Oakley Redcliff Ravenholm Stanbury Thornfield Westmouth Whitby Winstow Woodham"
)
_JOBS = _words(
    "barber carpenter chemist cook dentist farmer gardener hunter judge lawyer librarian miller miner musician painter "
    "pilot plumber poet porter sailor sculptor shepherd tailor teacher waiter weaver writer"
)
_ANIMALS = _words(
    "badger canary cat cow crow dog donkey duck eagle fox frog goat goose hare horse lizard mouse owl parrot pig "
    "pigeon rabbit raven sheep snake squirrel swan tiger turtle wolf"
)
_COLOURS = _words("amber black blue bronze crimson golden green grey ivory orange pink purple red silver violet white")
_COOKED = _words("baked boiled cold creamy crispy dried fresh fried grilled hot pickled roasted salted smoked spicy")
_FOOD = _words("beans beef carrots cheese chicken fish ham lamb lentils mushrooms noodles onions peas rice salmon soup")
_SITES = _words("boat castle chapel court dairy factory farm garden guest hotel market palace river school station")
_ROOMS = _words("cabin cellar closet corner cupboard garage hall hut loft office pantry shed shelf stable yard")


def draw_fact(rng: random.Random, kind: str) -> Fact:
    """A random fact of one of `KINDS`."""
    form, words = _KINDS[kind], _draw_words(rng)
    words["thing"] = _THING.format(**words)
    words["answer"] = form.answer.format(**words)
    key = form.questions[0].format(**words)
    sentence, question = (rng.choice(texts).format(**words) for texts in (form.sentences, form.questions))
    return Fact(kind, key, sentence, question, words["answer"])


def draw_facts(rng: random.Random, kinds: Sequence[str]) -> list[Fact]:
    """One fact of each entry of `kinds`: all keys differ, and no answer occurs in another fact's sentence."""
    facts: list[Fact] = []
    for kind in kinds:
        fact = draw_fact(rng, kind)
        while any(_clash(fact, other) for other in facts):
            fact = draw_fact(rng, kind)
        facts.append(fact)
    return facts


def _clash(a: Fact, b: Fact) -> bool:
    return a.key == b.key or a.answer in b.sentence or b.answer in a.sentence


def things(rng: random.Random) -> list[str]:
    """All things that facts are about, such as "amber lantern", in random order."""
    names = [_THING.format(adjective=adjective, noun=noun) for adjective in _ADJECTIVES for noun in _NOUNS]
    rng.shuffle(names)
    return names


def plain_words(rng: random.Random) -> list[str]:
    """Different words of one kind or another, in random order."""
    words = sorted({*_ADJECTIVES, *_NOUNS, *_JOBS, *_ANIMALS, *_FOOD, *_SITES, *_ROOMS})
    rng.shuffle(words)
    return words


def _draw_words(rng: random.Random) -> dict[str, str]:
    adjective, other_adjective = rng.sample(_ADJECTIVES, 2)
    noun, other_noun = rng.sample(_NOUNS, 2)
    colour, other_colour = rng.sample(_COLOURS, 2)
    meal, side = rng.sample(_FOOD, 2)
    first = rng.choice(_WOMEN + _MEN)
    return {
        **{"adjective": adjective, "other_adjective": other_adjective, "noun": noun, "other_noun": other_noun},
        **{"colour": colour, "other_colour": other_colour, "meal": meal, "side": side, "cooked": rng.choice(_COOKED)},
        **{"first": first, "their": "her" if first in _WOMEN else "his", "last": rng.choice(_LAST)},
        **{"town": rng.choice(_TOWNS), "job": rng.choice(_JOBS), "animal": rng.choice(_ANIMALS)},
        **{"site": rng.choice(_SITES), "room": rng.choice(_ROOMS), "digits": f"{rng.randrange(10**6):06d}"},
    }


#
# the hay: remarks on tools and paperwork, without the words and numbers that answers are made of
#

_SUBJECTS = (
    "The first report", "A longer manual", "The second edition", "This chapter", "The old procedure",
    "An early version", "The committee", "The archive", "The new index", "The survey", "The usual method",
    "A later note", "The glossary", "The register", "The weekly summary", "The inventory", "The printed guide",
    "The revised list",
)  # fmt: skip
_VERBS = (
    "describes", "leaves out", "mentions", "explains", "corrects", "repeats", "questions", "depends on", "replaces",
    "simplifies", "compares", "introduces", "measures", "confirms",
)  # fmt: skip
_OBJECTS = (
    "the order of the entries", "the size of the sample", "every change since the beginning",
    "the reasons for the delay",
    "the way in which files are named", "a shorter form of the same rule", "the difference between both drafts",
    "what happens when the input is missing", "the limits of the first experiment", "how the results were collected",
    "the meaning of each column", "the options that nobody uses", "the cost of keeping everything",
    "the names of the authors", "an example that no longer works", "the advice given to beginners",
)  # fmt: skip
_CLAUSES = (
    "although the text does not say so", "because space was short", "which surprised most readers",
    "and the appendix agrees", "but only in general terms", "as long as the defaults are used",
    "if the work is done by hand", "when several people share the task", "so that mistakes are found early",
    "unless the page has been removed", "even where it seems unnecessary", "and no further comment is made",
)  # fmt: skip
_OPENERS = (
    "In most cases", "As a rule", "For the same reason", "After some discussion", "On closer inspection",
    "Without further notice", "In the following section", "At the end of the week", "For large collections",
    "Compared with the previous attempt", "To avoid confusion", "According to the preface",
)  # fmt: skip
_SHORT = (
    "Nothing else was changed.", "The details are given below.", "Opinions differ on this point.",
    "It was tried more than once.", "A simple test is usually enough.", "Later readers ignored the warning.",
    "There is no need to begin again.", "Both answers can be defended.", "The matter was then forgotten for years.",
    "More about this can be found in the notes.", "That question is still open.", "Care is needed here.",
)  # fmt: skip


def sentences(rng: random.Random) -> Iterator[str]:
    """Endless hay."""
    while True:
        yield rng.choice(_SHORT) if rng.random() < 0.2 else _sentence(rng)


def _sentence(rng: random.Random) -> str:
    subject, verb, thing = (rng.choice(part) for part in (_SUBJECTS, _VERBS, _OBJECTS))
    if rng.random() < 0.4:
        subject = f"{rng.choice(_OPENERS)}, {subject[0].lower()}{subject[1:]}"
    clause = f", {rng.choice(_CLAUSES)}" if rng.random() < 0.6 else ""
    return f"{subject} {verb} {thing}{clause}."


def document(
    rng: random.Random,
    placed: Sequence[tuple[float, str]],
    n_tokens: int,
    count: TokenCounter,
    source: Iterator[str] | None = None,
) -> str:
    """Hay with sentences in it, as long as whole sentences allow without passing `n_tokens`.

    placed: (depth, sentence): depth 0 comes before all hay, 1 after it. count: tokens of a text. source: other hay.
    Raises ValueError if the placed sentences alone do not fit.
    """
    room = n_tokens - sum(count(" " + sentence) for _, sentence in placed)
    if room < 0:
        raise ValueError(f"{n_tokens} tokens are too few for {len(placed)} facts: raise n_tokens by {-room}")
    hay, starts = [], [0]
    for sentence in source or sentences(rng):
        end = starts[-1] + count(" " + sentence)
        if end > room:
            break
        hay.append(sentence)
        starts.append(end)
    middles = [(a + b) / 2 / max(starts[-1], 1) for a, b in zip(starts, starts[1:])]
    ordered = sorted([*placed, *zip(middles, hay)], key=lambda item: item[0])
    return "".join(f" {text}" for _, text in ordered)  # a space first too: each sentence is the tokens counted above


def question_prompt(text: str, question: str) -> str:
    """The form in which the demo model was trained."""
    return f"{text}\n\nQuestion: {question} Answer:"
