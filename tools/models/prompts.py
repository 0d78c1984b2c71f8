"""Held-out prompts: facts whose names and things no training text holds, between sentences of any text file."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import chat as c
import rows
import words
from facts import Fact, Lists, draw_facts
from groups import GROUPS
from held import held_out_words
from passages import ALL_KINDS
from text import BOS, END, SYSTEM, USER, Encoder, Span

# Paraphrases that no training text holds.
HELD_QUESTIONS = {
    "code": ("Tell me the code for the {k}.", "I forgot how to open the {k}: what do I enter?"),
    "keep": ("I am looking for the {k2} of {k}: where is it?", "{k} needs the {k2}: where should one look?"),
    "job": ("By what trade does {k} live?", "Can you say what {k} works as?"),
    "colour": ("Can you describe the colours of the {k}?", "I want to paint a picture of the {k}: which colours?"),
    "price": ("What sum was paid for the {k}?", "I wonder what the {k} sold for."),
    "pet": ("Please give me the name of the {k2} of {k}.", "{k} is calling the {k2}: by which name?"),
    "food": ("I am cooking for Captain {k}: what should it be?", "Which dish does Captain {k} love?"),
    "password": ("I stand at the {k}: what must I whisper?", "How does one get into the {k}?"),
    "phone": ("I want to ring {k}: which number is it?", "What is the phone number of {k}?"),
    "attribute": ("Can you say what the {k} of the {k2} is?", "I need the {k} of the {k2}."),
    "action": ("I hear that {k} {k2} something: what?", "Do you know which thing {k} {k2}?"),
    "seat": ("Which town does the text mention together with {k}?", "Name the town that belongs to {k}."),
}
SIMPLE = tuple(HELD_QUESTIONS)  # kinds whose answer is one value
_PLAIN = str.maketrans("\u201c\u201d\u2019\u2018\u2014", "\"\"''-")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Tokens up to the answer, the answer's tokens, and where the sentences stand that hold it."""

    ids: list[int]
    answer: list[int]
    kind: str
    evidence: tuple[Span, ...]
    more: tuple[tuple[list[int], list[int]], ...] = ()  # later turns: (tokens after the answer before, answer)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a prompt is like. `kind`: of facts, or a group of facts asked for together; `n_question` > 1: later
    questions ask for distractors; `form`: of the answer, asked for in the system turn."""

    n_token: int
    depth: float
    n_distractor: int = 4
    kind: str = "code"
    chat: bool = False
    form: str = "value"
    paraphrase: bool = False
    n_question: int = 1


class Book:
    """The sentences of a text file, in tokens and as they are."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        flat = re.sub(r"\s+", " ", path.read_text().translate(_PLAIN))
        lines = [s.strip() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", flat)]
        self.lines = [s for s in lines if 5 <= len(s.split()) <= 50 and s.isascii() and s[-1:] in ".!?\"'"]
        self.sentences = [list(encoder.encode(" " + s)) for s in self.lines]


def make_prompt(seed: str, encoder: Encoder, book: Book, task: Task) -> Prompt:
    """The first fact, or group of facts, is asked for; the others, of the same kind, stand anywhere."""
    r = random.Random(seed)
    with held_out_words():
        lists = Lists(*(list(getattr(words, n)) for n in ("ADJECTIVES", "NOUNS", "WOMEN", "MEN")))
        facts, questions = _draw(r, task, lists)
    sentences = [rows.sentence_of(r, encoder, f, 0.0) for f in facts]
    row = rows.Row()
    row.add((BOS,), 0.0)
    if task.chat:
        instruction = r.choice(c.INSTRUCTIONS[task.form])
        row.add((SYSTEM, *encoder.encode(" " + instruction), END, *encoder.encode("\n"), USER), 0.0)
    room = task.n_token - len(row.ids) - sum(len(s[1]) for s in sentences) - 96
    document = _document(row, r, book, sentences, room, task.depth)
    turns = []
    for n, question in enumerate(questions):
        before = len(row.ids)
        rows.ask(row, r, encoder, question, document, task.form, task.chat, n == 0, 1.0)
        _, start, end, _ = row.answers[-1]
        turns.append((row.ids[before:start], row.ids[start:end]))
    _, start, _, _ = row.answers[0]
    evidence = tuple(document[i].sentence for i in questions[0].facts)
    return Prompt(row.ids[:start], turns[0][1], task.kind, evidence, tuple(turns[1:]))


def _draw(r: random.Random, task: Task, lists: Lists) -> tuple[list[Fact], list[rows.Question]]:
    if task.kind in GROUPS:
        return _draw_group(r, task, lists)
    facts = draw_facts(r, ALL_KINDS, [task.kind], task.n_distractor + 1, lists, [])
    facts = facts[:1] + [f for f in facts[1:] if f.fields["v"] != facts[0].fields["v"]]  # one right answer
    questions = [rows.single(r, facts, i) for i in range(min(task.n_question, len(facts)))]
    if task.paraphrase:
        held = HELD_QUESTIONS[task.kind]
        questions = [dataclasses.replace(q, template=r.choice(held)) for q in questions]
    return facts, questions


def _draw_group(r: random.Random, task: Task, lists: Lists) -> tuple[list[Fact], list[rows.Question]]:
    group = GROUPS[task.kind]
    n = r.choice(list(group.questions))
    facts = group.draw(r, lists, n)
    about = {facts[0].fields[group.shared]}
    while len(facts) < n + task.n_distractor:
        others = group.draw(r, lists, 2)
        if others[0].fields[group.shared] not in about:
            about.add(others[0].fields[group.shared])
            facts += others
    return facts, [rows.Question(tuple(range(n)), r.choice(group.questions[n]), group.answer, group.by_place)]


def _document(
    row: rows.Row, r: random.Random, book: Book, sentences: list[rows.Sentence], room: int, depth: float
) -> list[rows.Placed]:
    filler, start = [], r.randrange(len(book.sentences))
    for sentence in book.sentences[start:] + book.sentences[:start]:
        if len(sentence) > room:
            break
        filler.append(sentence)
        room -= len(sentence)
    slots = [round(depth * len(filler)), *(r.randint(0, len(filler)) for _ in sentences[1:])]
    placed: dict[int, rows.Placed] = {}
    for i in range(len(filler) + 1):
        for n in r.sample(range(len(slots)), len(slots)):
            if slots[n] == i:
                placed[n] = rows.place(row, sentences[n])
        if i < len(filler):
            row.add(filler[i], 0.0)
    return [placed[n] for n in range(len(sentences))]
