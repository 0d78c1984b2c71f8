"""Training rows: prose with facts in it, and questions about them, all generated from a seed.

Every question knows where its answer stands, so that the losses of `losses.py` can teach attention as well as words.
A document may hold many facts of one kind, whose keys share words (distractors).
"""

from __future__ import annotations

import dataclasses
import random
import re

import chat as c
import numpy as np
from facts import Fact, draw_facts, draw_lists
from groups import GROUPS
from kinds import KINDS
from passages import ALL_KINDS, PASSAGES
from specs import Mix
from text import ASSISTANT, BOS, END, SYSTEM, USER, Encoder, Prose, Span

WINDOW = 8  # tokens before the answer whose attention will choose what a compressed cache keeps
Spans = tuple[Span, ...]


@dataclasses.dataclass
class Row:
    """Tokens, the weight of predicting each, places where positions may jump, and what attention should read.

    gather: (query, words that it is about); reads: (query, one entry a target of `specs.TARGETS`) while an answer is
    written; before: (query, sentences that answer) in the window before it.
    answers: (first token of the window, first token of the answer, its end, sentences that answer)."""

    ids: list[int] = dataclasses.field(default_factory=list)
    weights: list[float] = dataclasses.field(default_factory=list)
    breaks: list[int] = dataclasses.field(default_factory=list)
    gather: list[tuple[int, Spans]] = dataclasses.field(default_factory=list)
    reads: list[tuple[int, tuple[Spans, ...]]] = dataclasses.field(default_factory=list)
    before: list[tuple[int, Spans]] = dataclasses.field(default_factory=list)
    answers: list[tuple[int, int, int, Spans]] = dataclasses.field(default_factory=list)

    def add(self, ids: list[int] | tuple[int, ...], weight: float) -> Span:
        start = len(self.ids)
        self.ids += ids
        self.weights += [weight] * len(ids)
        return start, len(self.ids)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A fact in a row: its sentence, and where its fields stand."""

    fact: Fact
    sentence: Span
    fields: dict[str, Span]

    @property
    def keys(self) -> Spans:
        return tuple(span for name, span in self.fields.items() if name.startswith("k"))

    @property
    def values(self) -> Spans:
        return tuple(span for name, span in self.fields.items() if name.startswith("v"))

    @property
    def evidence(self) -> Span:
        """From the first key on: what stands before it cannot know what it is about."""
        return min(a for a, _ in self.keys), self.sentence[1]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked: facts by their index, a question's template filled by the first, an answer filled by each."""

    facts: tuple[int, ...]
    template: str
    answer: str
    by_place: bool = False


Sentence = tuple[Fact, list[int], dict[str, Span]]


def _move(spans: dict[str, Span], offset: int) -> dict[str, Span]:
    return {name: (a + offset, b + offset) for name, (a, b) in spans.items()}


def sentence_of(r: random.Random, encoder: Encoder, fact: Fact, clause: float) -> Sentence:
    template = r.choice(ALL_KINDS[fact.kind].sentences)
    if r.random() < clause and (before_value := re.match(r"(.*\{k2?\}) (\w+ .*)", template)):
        template = before_value[1] + r.choice(c.CLAUSES) + " " + before_value[2]
    return (fact, *encoder.fill(" " + template, fact.fields))


def place(row: Row, sentence: Sentence) -> Placed:
    fact, ids, fields = sentence
    row.breaks.append(len(row.ids))
    span = row.add(ids, 0.3)
    placed = Placed(fact, span, _move(fields, span[0]))
    row.gather += [(q, placed.keys) for q in range(max(b for _, b in placed.keys) - 1, span[1])]
    return placed


# ---- questions and answers ------------------------------------------------------------------------------------------


def ask(
    row: Row,
    r: random.Random,
    encoder: Encoder,
    question: Question,
    document: list[Placed],
    form: str,
    chat: bool,
    first: bool,
    weight: float,
) -> None:
    """Adds a question turn and its answer."""
    asked = [document[i] for i in question.facts]
    if question.by_place:
        asked.sort(key=lambda placed: placed.sentence)
    ids, fields = encoder.fill(" " + question.template, asked[0].fact.fields)
    if chat:
        if not first:
            row.add((USER,), 0.0)
        if r.random() < 0.3:
            row.add(encoder.encode("\n\n" + r.choice(c.LEADS) if first else " " + r.choice(c.LEADS)), 0.2)
        elif first:
            row.add(encoder.encode("\n\n"), 0.2)
    else:
        row.add(encoder.encode(r.choice(("\nQuestion:", "\n\nQuestion:"))), 0.2)
    start, _ = row.add(ids, 0.2)
    keys = tuple(span for name, span in _move(fields, start).items() if name.startswith("k"))
    if chat:
        for _ in range(r.choice((0, 0, 1, 1, 2))):
            row.add(encoder.encode(" " + r.choice(c.TAILS)), 0.2)
        row.add((END, *encoder.encode("\n"), ASSISTANT), 0.2)
    else:
        row.add(encoder.encode(" Answer:"), 0.2)
    answer(row, encoder, question.answer, asked, keys, form, weight)
    row.add((END, *encoder.encode("\n")) if chat else (), 1.0)


def answer(
    row: Row, encoder: Encoder, template: str, asked: list[Placed], keys: Spans, form: str, weight: float
) -> None:
    start = len(row.ids)
    all_evidence = tuple(placed.evidence for placed in asked)
    window = range(max(start - WINDOW, max(b for _, b in keys)), start - 1)
    row.before += [(q, all_evidence) for q in window]
    row.gather += [(q, keys) for q in window]
    lead, end = c.FORMS[form].split("{v}")
    for n, placed in enumerate(asked):
        part = (lead if n == 0 else ", ") + template + (end if placed is asked[-1] else "")
        _answer_part(row, encoder, part, placed, keys, weight)
    row.answers.append((start - WINDOW, start, len(row.ids), all_evidence))


def _answer_part(row: Row, encoder: Encoder, template: str, placed: Placed, keys: Spans, weight: float) -> None:
    """One fact's part; the query that predicts a token stands before it."""
    ids, fields = encoder.fill(template, placed.fact.fields)
    first_field = min(a for a, _ in fields.values())
    start, _ = row.add(ids[:first_field], 2.0)
    row.add(ids[first_field:], weight)
    fields = _move(fields, start)
    labels = tuple(span for name, span in fields.items() if name.startswith("k"))
    source: dict[int, tuple[int, int]] = {}
    for name, (a, b) in fields.items():
        first, last = placed.fields[name]
        source |= {a + i: (first + i, last) for i in range(min(b - a, last - first))}
    for q in range(start - 1, len(row.ids) - 1):
        token, last = source.get(q + 1, (0, 0))
        following: Spans = ((token, token + 1),) if last else ()
        rest: Spans = ((token, last),) if last else ()
        row.reads.append((q, ((placed.evidence,), placed.values, following, rest)))
        row.gather.append((q, keys + tuple(s for s in labels if s[1] <= q + 1)))


# ---- the row --------------------------------------------------------------------------------------------------------


def make_row(r: random.Random, encoder: Encoder, prose: Prose, mix: Mix) -> Row:
    """A document with facts, then questions about some of them; filler prose takes what room is left."""
    lists = draw_lists(r, prose if r.random() < mix.wild else None)
    facts, questions = draw_questions(r, mix, lists)
    sentences = [sentence_of(r, encoder, f, mix.clause) for f in facts]
    chat = r.random() < mix.chat
    form = r.choice(("value", "value", "value", *c.FORMS)) if chat else "value"
    row = Row()
    row.add((BOS,), 0.0)
    if chat and (form != "value" or r.random() < 0.5):
        row.add((SYSTEM, *encoder.encode(" " + r.choice(c.INSTRUCTIONS[form])), END, *encoder.encode("\n")), 0.2)
    row.add((USER,) if chat else (), 0.0)
    room = mix.n_token + 1 - len(row.ids) - sum(len(s[1]) for s in sentences)
    room -= sum(28 + 10 * len(q.facts) for q in questions)
    filler = _filler(r, encoder, prose, mix, lists, room)
    document = _document(row, r, filler, sentences)
    for n, question in enumerate(questions):
        ask(row, r, encoder, question, document, form, chat, n == 0, mix.answer_weight)
        if len(row.ids) > mix.n_token:
            break
    row.add(() if chat else encoder.encode("\n"), 0.3)
    return row


def draw_questions(r: random.Random, mix: Mix, lists: c.Lists) -> tuple[list[Fact], list[Question]]:
    facts: list[Fact] = []
    questions: list[Question] = []
    shared: set[str] = set()  # keys of the groups: nobody else's facts may have them, or summaries would lack some
    if r.random() < mix.group:
        group = GROUPS[r.choice(list(GROUPS))]
        for _ in range(r.randint(1, 3)):
            n = r.choice(list(group.questions))
            drawn = group.draw(r, lists, n)
            if drawn[0].fields[group.shared] in shared:
                continue
            shared.add(drawn[0].fields[group.shared])
            indices = tuple(range(len(facts), len(facts) + n))
            questions.append(Question(indices, r.choice(group.questions[n]), group.answer, group.by_place))
            facts += drawn
    if mix.passage and r.random() < mix.passage:
        start = len(facts)
        passages = draw_facts(r, PASSAGES, [r.choice(list(PASSAGES))], r.randint(1, 4), lists, facts)
        facts += [f for f in passages if f.fields["k"] not in shared]
        indices = r.sample(range(start, len(facts)), min(r.randint(1, 2), len(facts) - start))
        questions += [single(r, facts, i) for i in indices]
    kinds = [r.choice(list(KINDS))] if r.random() < 0.6 else r.sample(list(KINDS), r.randint(2, len(KINDS)))
    singles = draw_facts(r, KINDS, kinds, r.randint(*mix.n_fact), lists, facts)
    facts += [f for f in singles if not shared & {f.fields["k"], f.fields.get("k2")}]
    n_single = max(1, r.randint(*mix.n_question) - len(questions))
    for index in r.sample(range(len(facts)), min(len(facts), n_single)):
        questions.append(single(r, facts, index))
    r.shuffle(questions)
    return facts, questions


def single(r: random.Random, facts: list[Fact], index: int) -> Question:
    kind = ALL_KINDS[facts[index].kind]
    return Question((index,), r.choice(kind.questions), kind.answer)


def _filler(
    r: random.Random, encoder: Encoder, prose: Prose, mix: Mix, lists: c.Lists, room: int
) -> list[tuple[list[int], float]]:
    """Sentences that fill the room, with the weights of predicting them."""
    filler = []
    story_share, noise_share = (2 * x * r.random() for x in (mix.story, mix.noise))
    for sentence in prose.stream(r):
        draw, weight = r.random(), 1.0
        if draw < story_share:
            sentence, weight = list(encoder.encode(" " + c.story(r, lists))), 0.3
        elif draw > 1 - noise_share:
            sentence, weight = prose.noise(r), 0.0
        if len(sentence) > room:
            break
        filler.append((sentence, weight))
        room -= len(sentence)
    return filler


def _document(
    row: Row, r: random.Random, filler: list[tuple[list[int], float]], sentences: list[Sentence]
) -> list[Placed]:
    slots = [r.randint(0, len(filler)) for _ in sentences]
    placed: dict[int, Placed] = {}
    for i in range(len(filler) + 1):
        for n in r.sample(range(len(slots)), len(slots)):
            if slots[n] == i:
                placed[n] = place(row, sentences[n])
        if i < len(filler):
            row.breaks.append(len(row.ids))
            row.add(*filler[i])
    row.breaks.append(len(row.ids))
    return [placed[n] for n in range(len(sentences))]


def positions(r: random.Random, row: Row, n_token: int, context: int, share: float) -> np.ndarray:
    """Positions with a few random jumps at sentence ends: short rows then know long distances."""
    position = np.arange(n_token)
    if row.breaks and r.random() < share:
        room = r.randint(0, context - n_token)
        cuts = sorted(r.sample(row.breaks, min(len(row.breaks), r.randint(1, 6))))
        jumps = np.diff(sorted([0, *(r.randint(0, room) for _ in cuts)]))
        for cut, jump in zip(cuts, jumps):
            position[cut:] += jump
    return position
