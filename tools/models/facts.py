"""Facts: who or what they are about, what they say, and the sentences and questions for them (`kinds.py`)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import words as w

if TYPE_CHECKING:
    from text import Prose

Fields = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Fact:
    """`key` makes it unique among its kind; `fields` fill templates: {k}, {k2} what it is about, {v}.. the answer."""

    kind: str
    key: str
    fields: Fields


@dataclasses.dataclass(frozen=True)
class Kind:
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    draw: Callable[[random.Random, Lists], Fields]
    answer: str = "{v}"


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
    """A first name and the pronoun that goes with it."""
    return (r.choice(s.women), "her") if r.random() < 0.5 else (r.choice(s.men), "his")


def full_name(r: random.Random, s: Lists) -> str:
    return f"{person(r, s)[0]} {surname(r)}"


def surname(r: random.Random) -> str:
    return w.invented(r).capitalize() if r.random() < 0.3 else r.choice(w.SURNAME_HEADS) + r.choice(w.SURNAME_TAILS)


def town(r: random.Random) -> str:
    return w.invented(r).capitalize() if r.random() < 0.3 else r.choice(w.TOWN_HEADS) + r.choice(w.TOWN_TAILS)


def number(r: random.Random, s: Lists, n_digit: int) -> str:
    return "".join(r.choice(s.digits) for _ in range(n_digit))


def draw_lists(r: random.Random, prose: Prose | None = None) -> Lists:
    """Half of the documents have few words and few digits: their facts are alike and must be told apart.

    With prose the lists hold any words instead of the usual ones."""
    few = r.random() < 0.5
    if prose is not None:
        return _wild_lists(r, prose, r.randint(3, 12) if few else 60)

    def some(items: list[str], n: int) -> list[str]:
        return r.sample(items, n) if few else items

    n = r.randint(4, 12)
    return Lists(some(w.ADJECTIVES, n), some(w.NOUNS, n), some(w.WOMEN, n), some(w.MEN, n), _digits(r))


def _digits(r: random.Random) -> str:
    return "".join(r.sample("0123456789", r.choice((3, 5, 10))))


def _wild_lists(r: random.Random, prose: Prose, n: int) -> Lists:
    wild = tuple(prose.word(r) for _ in range(4 * n))
    names = [prose.word(r).capitalize() for _ in range(2 * n)]
    return Lists(list(wild[:n]), list(wild[n : 2 * n]), names[:n], names[n:], _digits(r), wild[2 * n :])


def make_fact(kinds: dict[str, Kind], kind: str, fields: Fields) -> Fact:
    return Fact(kind, " ".join(v for k, v in sorted(fields.items()) if k.startswith("k")), fields)


def draw_facts(
    r: random.Random, kinds: dict[str, Kind], names: list[str], n_fact: int, lists: Lists, taken: list[Fact]
) -> list[Fact]:
    """Facts of the named kinds; all keys differ, from those of `taken` too."""
    facts = {(f.kind, f.key): f for f in taken}
    n_all = len(facts) + n_fact
    for _ in range(8 * n_fact):
        name = r.choice(names)
        fact = make_fact(kinds, name, kinds[name].draw(r, lists))
        facts.setdefault((fact.kind, fact.key), fact)
        if len(facts) == n_all:
            break
    return list(facts.values())[len(taken) :]
