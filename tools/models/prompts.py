"""Held-out prompts: facts whose names and things no training text holds, between sentences of any text file."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path

import data
import words

HELD_WORDS = {
    "ADJECTIVES": (
        "antique bright cheerful clumsy crowded dented elegant faded frosty gloomy greasy handsome jolly lofty "
        "modest muddy oval peculiar polite quaint rainy rustic shabby spacious stormy tidy upright wealthy weary "
        "woven"
    ),
    "NOUNS": (
        "anvil apron archway balcony bicycle bonfire bookcase bugle cannon carriage chimney corridor cradle dagger "
        "dinghy doorbell easel fireplace freighter gallery gramophone hammock hourglass inkwell junk kayak "
        "kettledrum loom mirror mortar necklace obelisk pavilion pendant pyramid raft scooter sledge sundial "
        "teapot tractor turret wardrobe windmill"
    ),
    "WOMEN": "Adele Barbara Camilla Deborah Esther Frances Gwen Harriet Isabel Judith Linda Monica Rachel Sylvia",
    "MEN": (
        "Andrew Benjamin Charles Dennis Edward Francis Gerald Howard Isaac Kenneth Lawrence Michael Patrick Roger "
        "Stephen"
    ),
    "JOBS": (
        "actor architect banker butcher captain dancer engineer florist grocer inspector jeweller knight lecturer "
        "mechanic"
    ),
    "ANIMALS": (
        "antelope bat bear buffalo camel cricket deer dolphin falcon giraffe heron kitten leopard moth otter "
        "panther robin seal"
    ),
    "SURNAME_HEADS": "Ack Bal Cran Dor Elm Far Hod Ing Kell Lock Mad Pem Rad Sel Tur Wat",
    "SURNAME_TAILS": "bee combe den ford gate hurst leigh more nall over ridge sey thorpe well wick",
    "TOWN_HEADS": "Ab Bram Ches Dray Ep Frod Gos Hun Ips Kid Lud Mal New Ot Pres Rip Sed Tam Ux War",
    "TOWN_TAILS": "anger beck cester combe fleet gham holme ington later moor ness pool sall tree worthy",
}
# Paraphrases of the questions that no training text holds.
HELD_QUESTIONS = {
    "code": ("Tell me the code for the {k}.", "I forgot how to open the {k}: what do I enter?"),
    "price": ("What sum was paid for the {k}?", "I wonder what the {k} sold for."),
    "phone": ("I want to ring {k}: which number is it?", "What is the phone number of {k}?"),
    "seat": ("Which town does the text mention together with {k}?", "Name the town that belongs to {k}."),
    "attribute": ("Can you say what the {k} of the {k2} is?", "I need the {k} of the {k2}."),
}


_PLAIN = str.maketrans("\u201c\u201d\u2019\u2018\u2014", "\"\"'' ")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Tokens up to the answer, the answer's tokens and text, and where the sentence stands that holds it."""

    ids: list[int]
    answer: list[int]
    text: str
    kind: str
    evidence: data.Span
    more: tuple[tuple[list[int], list[int]], ...] = ()  # later turns: (tokens after the answer before, answer)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a prompt is like. `n_question` > 1: later questions ask for distractors; `form` is in the system turn."""

    n_token: int
    depth: float
    n_distractor: int = 4
    kind: str = "code"
    chat: bool = False
    form: str = "value"
    paraphrase: bool = False
    n_question: int = 1


class Book(data.Prose):
    """The sentences of a book, cleaned as the training prose is."""

    def __init__(self, encoder: data.Encoder, path: Path) -> None:
        text = path.read_text().translate(_PLAIN)
        flat = re.sub(r"\s+", " ", text)
        lines = [s.strip() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", flat)]
        lines = [s for s in lines if 5 <= len(s.split()) <= 50 and s.isascii() and s[-1:] in ".!?"]
        self.sentences = [e.ids for e in encoder.tokenizer.encode_batch([" " + x for x in lines])]


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


def make_prompt(seed: str, encoder: data.Encoder, prose: data.Prose, task: Task) -> Prompt:
    """The first fact of the list is asked; the others, of the same kind, stand anywhere."""
    r = random.Random(seed)
    with held_out_words():
        lists = data.Lists(*(list(getattr(words, n)) for n in ("ADJECTIVES", "NOUNS", "WOMEN", "MEN")))
        facts = _distinct(r, task, lists)
    sentences = [data.sentence_of(r, encoder, f, 0.0) for f in facts]
    row = data.Row()
    row.add((data.BOS,), 0.0)
    if task.chat:
        instruction = r.choice(data.INSTRUCTIONS[task.form])
        row.add((data.SYSTEM, *encoder.encode(" " + instruction), data.END, *encoder.encode("\n"), data.USER), 0.0)
    room = task.n_token - len(row.ids) - sum(len(s[0]) for s in sentences) - 40
    placed = _document(row, r, prose, sentences, room, task.depth)
    turns = []
    for n, (fact, where) in enumerate(list(zip(facts, placed))[: task.n_question]):
        before = len(row.ids)
        _ask(row, r, encoder, fact, where, task, n == 0)
        _, start, end, _ = row.answers[-1]
        turns.append((row.ids[before:start], row.ids[start:end]))
    _, start, end, evidence = row.answers[0]
    text = encoder.tokenizer.decode(turns[0][1])
    return Prompt(row.ids[:start], turns[0][1], text, task.kind, evidence, tuple(turns[1:]))


def _distinct(r: random.Random, task: Task, lists: data.Lists) -> list[data.Fact]:
    """Facts of one kind; the answer of the first is in no other."""
    facts = data.draw_facts(r, task.n_distractor + 1, [task.kind], lists)
    return facts[:1] + [f for f in facts[1:] if f.fields["v"] != facts[0].fields["v"]]


def _ask(
    row: data.Row, r: random.Random, encoder: data.Encoder, fact: data.Fact, where: data.Placed, task: Task, first: bool
) -> None:
    questions = data.KINDS[fact.kind].questions
    if task.paraphrase:
        kind = dataclasses.replace(data.KINDS[fact.kind], questions=HELD_QUESTIONS[fact.kind])
        data.KINDS[fact.kind] = kind
    data.ask(row, r, encoder, fact, where, task.form, task.chat, first, 1.0)
    data.KINDS[fact.kind] = dataclasses.replace(data.KINDS[fact.kind], questions=questions)


def _document(
    row: data.Row, r: random.Random, prose: data.Prose, sentences: list, room: int, depth: float
) -> list[data.Placed]:
    filler = []
    for sentence in prose.stream(r):
        if len(sentence) > room:
            break
        filler.append(sentence)
        room -= len(sentence)
    slots = [round(depth * len(filler)), *(r.randint(0, len(filler)) for _ in sentences[1:])]
    placed: dict[int, data.Placed] = {}
    for i in range(len(filler) + 1):
        for n, slot in enumerate(slots):
            if slot == i:
                placed[n] = data.place(row, sentences[n])
        if i < len(filler):
            row.add(filler[i], 0.0)
    return [placed[n] for n in range(len(sentences))]
