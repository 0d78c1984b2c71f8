"""Training rows: prose with facts in it, and questions about them, all generated from a seed.

Every question knows where its answer stands (`Span`s in tokens), so that the losses of `train.py` can teach attention
as well as words. A row is `Row`; a document may hold many facts of one kind, whose keys share words (distractors).
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import words as w
from tokenizers import Tokenizer

PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, END = range(7)
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
WINDOW = 8  # tokens before the answer whose attention will choose what a compressed cache keeps
Span = tuple[int, int]  # [first, last + 1) in tokens of the row


# ---- facts ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fact:
    """`key` makes it unique among its kind; `fields` fill the templates: {k}, {k2} what it is about, {v} the answer."""

    kind: str
    key: str
    fields: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Kind:
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    draw: Callable[[random.Random, Lists], dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Lists:
    """The words of one document: small lists make its keys share words and its numbers share digits.

    `wild` words stand in half of the other places too: any word can be a name, a thing or an answer."""

    adjectives: list[str]
    nouns: list[str]
    women: list[str]
    men: list[str]
    digits: str = "0123456789"
    wild: tuple[str, ...] = ()

    def pick(self, r: random.Random, usual: list[str]) -> str:
        return r.choice(self.wild) if self.wild and r.random() < 0.5 else r.choice(usual)


def thing(r: random.Random, s: Lists) -> str:
    return f"{r.choice(s.adjectives)} {r.choice(s.nouns)}"


def person(r: random.Random, s: Lists) -> tuple[str, str]:
    return (r.choice(s.women), "her") if r.random() < 0.5 else (r.choice(s.men), "his")


def surname(r: random.Random) -> str:
    return invented(r).capitalize() if r.random() < 0.3 else r.choice(w.SURNAME_HEADS) + r.choice(w.SURNAME_TAILS)


def town(r: random.Random) -> str:
    return invented(r).capitalize() if r.random() < 0.3 else r.choice(w.TOWN_HEADS) + r.choice(w.TOWN_TAILS)


def invented(r: random.Random) -> str:
    """A word that nobody knows, of two or three syllables."""
    onsets = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sl st t th tr v w z".split()
    ends = ("", "n", "r", "l", "s", "m", "ck", "nd", "rt")
    return "".join(r.choice(onsets) + r.choice("aeiou") + r.choice(ends) for _ in range(r.randint(2, 3)))


def number(r: random.Random, s: Lists, n_digit: int) -> str:
    return "".join(r.choice(s.digits) for _ in range(n_digit))


def full_name(r: random.Random, s: Lists) -> str:
    return f"{person(r, s)[0]} {surname(r)}"


def _keep(r: random.Random, s: Lists) -> dict[str, str]:
    name, their = person(r, s)
    return {"k": name, "their": their, "k2": r.choice(s.nouns), "v": f"the {s.pick(r, w.SITES)} {s.pick(r, w.ROOMS)}"}


def _pet(r: random.Random, s: Lists) -> dict[str, str]:
    return {"k": person(r, s)[0], "k2": s.pick(r, w.ANIMALS), "v": surname(r)}


def _password(r: random.Random, s: Lists) -> dict[str, str]:
    value = f"{s.pick(r, w.ADJECTIVES)} {s.pick(r, w.ANIMALS)} {s.pick(r, w.NOUNS)}"
    return {"k": thing(r, s), "v": value}


def _meal(r: random.Random, s: Lists) -> dict[str, str]:
    return {"k": surname(r), "v": f"{s.pick(r, w.COOKED)} {s.pick(r, w.FOODS)} with {s.pick(r, w.FOODS)}"}


def _attribute(r: random.Random, s: Lists) -> dict[str, str]:
    value = r.choice((thing(r, s), town(r), number(r, s, 3), s.pick(r, w.COLOURS), surname(r)))
    return {"k": r.choice(w.ATTRIBUTES), "k2": thing(r, s), "v": value}


def _action(r: random.Random, s: Lists) -> dict[str, str]:
    return {"k": full_name(r, s), "k2": r.choice(w.VERBS), "v": f"the {thing(r, s)}"}


KINDS: dict[str, Kind] = {
    "code": Kind(
        (
            "The secret code of the {k} is {v}.",
            "To unlock the {k}, dial the digits {v}.",
            "Remember that the combination for the {k} is {v}.",
            "Whoever stands before the {k} must enter {v}.",
        ),
        (
            "Which code opens the {k}?",
            "What number must be entered to open the {k}?",
            "How is the {k} unlocked?",
            "What are the digits for the {k}?",
        ),
        lambda r, s: {"k": thing(r, s), "v": number(r, s, 4)},
    ),
    "keep": Kind(
        ("{k} keeps {their} {k2} in {v}.", "{k} has put {their} {k2} into {v}.", "{k} hid the {k2} behind {v}."),
        (
            "Where is the {k2} of {k} stored?",
            "Where would one find the {k2} owned by {k}?",
            "Where did {k} leave the {k2}?",
            "In which place is the {k2} of {k}?",
        ),
        _keep,
    ),
    "job": Kind(
        ("{k} is a {v} in {town}.", "Everyone knows {k}, the {v} of {town}.", "{k} works as a {v}."),
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
        ),
        ("What colours does the {k} have?", "Which two colours can be seen on the {k}?", "How is the {k} coloured?"),
        lambda r, s: {"k": thing(r, s), "v": f"{s.pick(r, w.COLOURS)} and {s.pick(r, w.COLOURS)}"},
    ),
    "price": Kind(
        ("The merchant sold the {k} for {v}.", "Whoever wanted the {k} paid {v}.", "The {k} was worth {v}."),
        (
            "How much did the {k} cost?",
            "What was the price of the {k}?",
            "What did one pay for the {k}?",
            "How many crowns is the {k} worth?",
        ),
        lambda r, s: {"k": thing(r, s), "v": f"{number(r, s, r.choice((2, 3)))} crowns"},
    ),
    "pet": Kind(
        ("{k} has a tame {k2} called {v}.", "The {k2} that lives with {k} answers to {v}."),
        ("What is the name of the {k2} of {k}?", "How did {k} name the {k2}?", "What is the {k2} of {k} called?"),
        _pet,
    ),
    "food": Kind(
        ("The favourite dish of Captain {k} is {v}.", "Every Sunday Captain {k} orders {v}."),
        (
            "What does Captain {k} like to eat best?",
            "Which meal should be served to Captain {k}?",
            "What is Captain {k} fond of eating?",
        ),
        _meal,
    ),
    "password": Kind(
        ("Visitors enter the {k} by whispering {v}.", "The guards of the {k} only accept {v}."),
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
        ("{k} travels to {v} next week.", "The letter to {k} was sent to {v}.", "{k} was born in {v}."),
        (
            "Which town is linked with {k}?",
            "What place does the text name for {k}?",
            "With which place is {k} connected?",
        ),
        lambda r, s: {"k": full_name(r, s), "v": town(r)},
    ),
}
CLAUSES = (
    ", as everybody knows,",
    ", according to the old book,",
    ", so they say,",
    ", at least for now,",
    ", unless somebody has changed it in the meantime,",
    ", to the surprise of the whole village,",
    ", of course,",
    ", which nobody had expected,",
    ", if we may believe the neighbours who live across the river,",
)


STORIES = (
    "{name} walked slowly towards {town}, and nobody spoke.",
    "The {thing} stood near the {thing2} while the rain fell.",
    "'I have never seen such a {thing},' said {name}.",
    "{name} looked at {name2} and laughed.",
    "Nobody in {town} remembered the {thing} any more.",
    "When {name} came home, the {thing} was gone.",
    "He told {name} the whole story, and she wept.",
    "It was the {thing} of which {name} had spoken to {name2}.",
    '"My dear {name}," she cried, "who has taken the {thing}?"',
    "They passed {town} before the sun went down.",
    "There was a {thing} in the hall, but {name} did not see it.",
    "Mr. {last} and Mrs. {last2} talked about the {noun} until midnight.",
    "What could {name} do with a {thing}?",
    "Years later {name} wrote to {name2} from {town}.",
    "The old {noun} rattled, and {name} woke up.",
    "I thought of {name}, of the {noun}, and of all that we had lost in {town}.",
)


def story(r: random.Random, s: Lists) -> str:
    """A sentence about people and things of the document."""
    fields = {"name": full_name(r, s) if r.random() < 0.3 else person(r, s)[0], "name2": person(r, s)[0]}
    fields |= {"thing": thing(r, s), "thing2": thing(r, s), "noun": r.choice(s.nouns), "town": town(r)}
    return r.choice(STORIES).format(**fields, last=surname(r), last2=surname(r))


def draw_lists(r: random.Random, prose: Prose | None = None) -> Lists:
    """Half of the documents have few words and few digits: their facts are alike and must be told apart.

    With prose the lists hold any words instead of the usual ones."""
    few = r.random() < 0.5
    if prose is not None:
        return _wild_lists(r, prose, r.randint(3, 12) if few else 60)

    def some(items: list[str], n: int) -> list[str]:
        return r.sample(items, n) if few else items

    digits = "".join(r.sample("0123456789", r.choice((3, 5, 10))))
    n = r.randint(4, 12)
    return Lists(some(w.ADJECTIVES, n), some(w.NOUNS, n), some(w.WOMEN, n), some(w.MEN, n), digits)


def _wild_lists(r: random.Random, prose: Prose, n: int) -> Lists:
    wild = tuple(prose.word(r) for _ in range(4 * n))
    names = [prose.word(r).capitalize() for _ in range(2 * n)]
    digits = "".join(r.sample("0123456789", r.choice((3, 5, 10))))
    return Lists(list(wild[:n]), list(wild[n : 2 * n]), names[:n], names[n:], digits, wild[2 * n :])


def draw_facts(r: random.Random, n_fact: int, kinds: list[str], lists: Lists) -> list[Fact]:
    """Facts whose keys all differ."""
    facts: dict[tuple[str, str], Fact] = {}
    for _ in range(8 * n_fact):
        kind = r.choice(kinds)
        fields = KINDS[kind].draw(r, lists)
        key = " ".join(v for k, v in sorted(fields.items()) if k.startswith("k"))
        facts.setdefault((kind, key), Fact(kind, key, fields))
        if len(facts) == n_fact:
            break
    return list(facts.values())


# ---- tokens ---------------------------------------------------------------------------------------------------------


class Encoder:
    """The tokenizer, cached: text is cut at spaces, where the byte-level BPE always cuts as well."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.encode = functools.lru_cache(maxsize=1 << 17)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def fill(self, template: str, fields: dict[str, str]) -> tuple[list[int], list[Span], Span | None]:
        """Tokens of a filled template, with the spans of its keys and of its value; a space comes first."""
        ids: list[int] = []
        keys: list[Span] = []
        value: Span | None = None
        for part in re.findall(r" ?\{\w+\}|(?: ?[^{} ]+)+", " " + template):
            name = part.strip(" {}") if "{" in part else ""
            text = part.split("{")[0] + fields[name] if name else part
            start = len(ids)
            ids += self.encode(text)
            if name.startswith("k"):
                keys.append((start, len(ids)))
            elif name == "v":
                value = (start, len(ids))
        return ids, keys, value


class Prose:
    """Sentences of a text file, one a line, tokenised once."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        text = path.read_text()
        lines = text.splitlines()
        self.n_vocab = encoder.tokenizer.get_vocab_size()
        tokens = (encoder.tokenizer.id_to_token(i).lstrip("\u0120") for i in range(len(SPECIAL), self.n_vocab))
        self.pieces = [t for t in tokens if t.isascii() and t.isalpha() and t.islower()]
        self.vocabulary = sorted(set(re.findall(r"(?<= )[a-z]{4,10}(?=[ ,.])", text)))
        self.sentences = [e.ids for e in encoder.tokenizer.encode_batch([" " + x for x in lines])]

    def word(self, r: random.Random) -> str:
        """Any word: one of the prose, an invented one, or one glued from pieces that the tokenizer knows."""
        draw = r.random()
        if draw < 0.4:
            return r.choice(self.vocabulary)
        return invented(r) if draw < 0.6 else "".join(r.choice(self.pieces) for _ in range(r.randint(1, 3)))

    def noise(self, r: random.Random) -> list[int]:
        """Random tokens, or a sentence in which a third of them is random: keys must not match what they never saw."""
        if r.random() < 0.5:
            return [r.randrange(len(SPECIAL), self.n_vocab) for _ in range(r.randint(8, 30))]
        sentence = r.choice(self.sentences)
        return [r.randrange(len(SPECIAL), self.n_vocab) if r.random() < 0.33 else t for t in sentence]

    def stream(self, r: random.Random) -> Iterator[list[int]]:
        """Sentences for ever, in runs of neighbours."""
        while True:
            start = r.randrange(len(self.sentences))
            yield from self.sentences[start : start + r.randint(4, 20)]


# ---- rows -----------------------------------------------------------------------------------------------------------

FORMS = {
    "value": " {v}.",
    "sentence": " The answer is {v}.",
    "german": " Die Antwort lautet {v}.",
    "spanish": " La respuesta es {v}.",
}
INSTRUCTIONS = {
    "value": (
        "Answer with the value only.",
        "Be brief.",
        "Reply with as few words as possible.",
        "You are a helpful assistant.",
    ),
    "sentence": ("Answer in a full sentence.", "Reply with a whole sentence.", "Always write complete sentences."),
    "german": ("Answer in German.", "You speak German.", "The answer must be in German."),
    "spanish": ("Answer in Spanish.", "You speak Spanish.", "The answer must be in Spanish."),
}
LEADS = (
    "Use the text above.",
    "Here is my question:",
    "Read the text and answer.",
    "Now a question about the text.",
    "Please help me.",
)
TAILS = (
    "Answer from the text above.",
    "Look it up in the text.",
    "Only the text counts, not what you know.",
    "Thank you.",
    "Take your time and read the document again before you answer.",
    "I need this for a letter that I write today.",
    "If the text says so, tell me what it is, and nothing else please.",
)


@dataclasses.dataclass
class Row:
    """Tokens, the weight of predicting each, places where positions may jump, and what attention should do.

    `gather` and `semantic`: (query, spans it should read); `copied`: (query, token it should read); `before`: (query,
    sentence that the copying heads should read as a whole before the answer starts).
    `answers`: (first token of the window before an answer, first token of the answer, its end, evidence span)."""

    ids: list[int] = dataclasses.field(default_factory=list)
    weights: list[float] = dataclasses.field(default_factory=list)
    breaks: list[int] = dataclasses.field(default_factory=list)
    gather: list[tuple[int, Span, Span]] = dataclasses.field(default_factory=list)
    semantic: list[tuple[int, Span, Span]] = dataclasses.field(default_factory=list)
    copied: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    before: list[tuple[int, Span]] = dataclasses.field(default_factory=list)
    answers: list[tuple[int, int, int, Span]] = dataclasses.field(default_factory=list)

    def add(self, ids: list[int] | tuple[int, ...], weight: float) -> Span:
        start = len(self.ids)
        self.ids += ids
        self.weights += [weight] * len(ids)
        return start, len(self.ids)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A fact in a row: its sentence, the words that it is about, its value."""

    sentence: Span
    keys: tuple[Span, Span]
    value: Span


@dataclasses.dataclass(frozen=True)
class Mix:
    """What the rows of a phase of the training are like."""

    n_token: int
    n_fact: tuple[int, int]
    n_question: tuple[int, int]
    answer_weight: float = 8.0
    chat: float = 0.5
    clause: float = 0.3
    wild: float = 0.0  # documents whose names, things and answers are any words
    story: float = 0.0  # sentences of the filler that tell of the same people and things, but answer nothing
    noise: float = 0.0  # sentences of the filler that hold random tokens


def two(spans: list[Span], offset: int) -> tuple[Span, Span]:
    """The first and the last of one or more spans, moved: every template has one or two keys."""
    moved = [(a + offset, b + offset) for a, b in spans]
    return moved[0], moved[-1]


def sentence_of(r: random.Random, encoder: Encoder, fact: Fact, clause: float) -> tuple[list[int], list[Span], Span]:
    template = r.choice(KINDS[fact.kind].sentences)
    if r.random() < clause and (before_value := re.match(r"(.*\{k2?\}) (\w+ .*)", template)):
        template = before_value[1] + r.choice(CLAUSES) + " " + before_value[2]
    ids, keys, value = encoder.fill(template, fact.fields)
    assert value is not None
    return ids, keys, value


def place(row: Row, sentence: tuple[list[int], list[Span], Span]) -> Placed:
    ids, keys, value = sentence
    row.breaks.append(len(row.ids))
    span = row.add(ids, 0.3)
    placed = Placed(span, two(keys, span[0]), (value[0] + span[0], value[1] + span[0]))
    last_key = max(placed.keys[0][1], placed.keys[1][1])
    row.gather += [(q, *placed.keys) for q in range(last_key - 1, span[1])]
    return placed


def ask(
    row: Row,
    r: random.Random,
    encoder: Encoder,
    fact: Fact,
    placed: Placed,
    form: str,
    chat: bool,
    first: bool,
    weight: float,
) -> None:
    """Adds a question turn and its answer."""
    question, keys, _ = encoder.fill(r.choice(KINDS[fact.kind].questions), fact.fields)
    if chat:
        if not first:
            row.add((USER,), 0.0)
        if r.random() < 0.3:
            row.add(encoder.encode("\n\n" + r.choice(LEADS) if first else " " + r.choice(LEADS)), 0.2)
        elif first:
            row.add(encoder.encode("\n\n"), 0.2)
    else:
        row.add(encoder.encode(r.choice(("\nQuestion:", "\n\nQuestion:"))), 0.2)
    span = row.add(question, 0.2)
    question_keys = two(keys, span[0])
    if chat:
        for _ in range(r.choice((0, 0, 1, 1, 2))):
            row.add(encoder.encode(" " + r.choice(TAILS)), 0.2)
        row.add((END, *encoder.encode("\n"), ASSISTANT), 0.2)
    else:
        row.add(encoder.encode(" Answer:"), 0.2)
    answer(row, encoder, fact, placed, question_keys, form, weight)
    row.add((END, *encoder.encode("\n")) if chat else (), 1.0)


def answer(
    row: Row, encoder: Encoder, fact: Fact, placed: Placed, keys: tuple[Span, Span], form: str, weight: float
) -> None:
    start = len(row.ids)
    ids, _, value = encoder.fill(FORMS[form][1:], fact.fields)
    assert value is not None
    row.add(ids[: value[0]], 2.0)
    row.add(ids[value[0] :], weight)
    queries = range(max(start - WINDOW, keys[0][1], keys[1][1]), len(row.ids) - 1)
    evidence = (min(placed.keys[0][0], placed.keys[1][0]), placed.sentence[1])
    row.gather += [(q, *keys) for q in queries]
    row.semantic += [(q, evidence, placed.sentence) for q in queries]
    row.copied += [(start + value[0] + i - 1, placed.value[0] + i) for i in range(value[1] - value[0])]
    row.before += [(q, evidence) for q in queries if q < start - 1]
    row.answers.append((start - WINDOW, start, len(row.ids), placed.sentence))


def make_row(r: random.Random, encoder: Encoder, prose: Prose, mix: Mix) -> Row:
    """A document with facts, then questions about some of them; filler prose takes what room is left."""
    lists = draw_lists(r, prose if r.random() < mix.wild else None)
    kinds = [r.choice(list(KINDS))] if r.random() < 0.6 else r.sample(list(KINDS), r.randint(2, len(KINDS)))
    facts = draw_facts(r, r.randint(*mix.n_fact), kinds, lists)
    sentences = [sentence_of(r, encoder, f, mix.clause) for f in facts]
    chat = r.random() < mix.chat
    form = r.choice(("value", "value", "value", *FORMS)) if chat else "value"
    row = Row()
    row.add((BOS,), 0.0)
    if chat and (form != "value" or r.random() < 0.5):
        row.add((SYSTEM, *encoder.encode(" " + r.choice(INSTRUCTIONS[form])), END, *encoder.encode("\n")), 0.2)
    row.add((USER,) if chat else (), 0.0)
    asked = r.sample(range(len(facts)), min(len(facts), r.randint(*mix.n_question)))
    room = mix.n_token + 1 - len(row.ids) - sum(len(s[0]) for s in sentences) - 36 * len(asked)
    filler = _filler(r, encoder, prose, mix, lists, room)
    placed = _document(row, r, filler, sentences)
    for n, index in enumerate(asked):
        ask(row, r, encoder, facts[index], placed[index], form, chat, n == 0, mix.answer_weight)
        if len(row.ids) > mix.n_token:
            break
    row.add(() if chat else encoder.encode("\n"), 0.3)
    return row


def _filler(
    r: random.Random, encoder: Encoder, prose: Prose, mix: Mix, lists: Lists, room: int
) -> list[tuple[list[int], float]]:
    """Sentences that fill the room, with the weights of predicting them."""
    filler = []
    story_share, noise_share = (2 * x * r.random() for x in (mix.story, mix.noise))
    for sentence in prose.stream(r):
        draw, weight = r.random(), 1.0
        if draw < story_share:
            sentence, weight = list(encoder.encode(" " + story(r, lists))), 0.3
        elif draw > 1 - noise_share:
            sentence, weight = prose.noise(r), 0.0
        if len(sentence) > room:
            break
        filler.append((sentence, weight))
        room -= len(sentence)
    return filler


def _document(row: Row, r: random.Random, filler: list[tuple[list[int], float]], sentences: list) -> list[Placed]:
    slots = sorted(r.randint(0, len(filler)) for _ in sentences)
    placed = []
    for i in range(len(filler) + 1):
        placed += [place(row, s) for s, slot in zip(sentences, slots) if slot == i]
        if i < len(filler):
            row.breaks.append(len(row.ids))
            row.add(*filler[i])
    row.breaks.append(len(row.ids))
    return placed


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
