"""RULER's kinds of tasks (arXiv:2404.06654), generated in words of our own.

multi_key: one needle among many of its kind. multi_value: one key with four values. multi_query: four keys asked at
once. variables: which variables hold a value, handed on from one to the next. common_words: the ten words of a list
that come most often. frequent_words: the three most frequent of invented words. Scored by RULER's string match.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Callable

from ..errors import EvaluationError
from . import haystack
from .hay import HINT, bury
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = {
    "multi_key": "any",
    "multi_value": "large",
    "multi_query": "large",
    "variables": "large",
    "common_words": "large",
    "frequent_words": "large",
}

_LIST_HINT = "Answer with the values only, separated by commas."
_TOKENS_A_KEY = 128  # of hay for each distractor of multi_key
_N_VALUES = 4
_N_CHAIN = 5  # variables that hold the value
_COMMON, _RARE = 20, 3  # how often a common and a rare word comes
_SYLLABLES = "ba de fi go lu ma ne pi ro su ta ve wi zo ka mu".split()


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`depths * repeats` prompts for each task and context; what is asked lies at random depths."""
    cells = itertools.product(plan.tasks or TASKS, plan.contexts, range(plan.depths * plan.repeats))
    return [_sample(plan, fit, *cell) for cell in cells]


def _sample(plan: SuitePlan, fit: Fit, task: str, n_context: int, i: int) -> Sample:
    name = f"ruler/{task}/{n_context}/{i}"
    empty = Sample(name, "", (), hint=_LIST_HINT, split={"context": n_context})
    return _MAKERS[task](plan, fit, generator(plan, name), empty, n_context)


def _multi_key(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    kind = rng.choice(haystack.KINDS)
    needle, *others = haystack.draw_facts(rng, [kind] * max(n // _TOKENS_A_KEY, 4))
    turn = Turn(needle.question, (needle.answer,), task="multi_key", marked=(needle.sentence,))
    sample = replace(empty, turns=(turn,), hint=HINT)
    return bury(plan, fit, rng, sample, _anywhere(rng, [needle.sentence, *(fact.sentence for fact in others)]), n)


def _multi_value(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    asked, *others = haystack.things(rng)[:_N_VALUES]
    codes = _codes(rng, 2 * _N_VALUES)
    lines = [f"One of the codes of the {asked} is {code}." for code in codes[:_N_VALUES]]
    lines += [f"One of the codes of the {thing} is {code}." for thing, code in zip(others, codes[_N_VALUES:])]
    turn = _turn(f"What are all {_N_VALUES} codes of the {asked}?", codes[:_N_VALUES], "multi_value", lines[:_N_VALUES])
    return bury(plan, fit, rng, replace(empty, turns=(turn,)), _anywhere(rng, lines), n)


def _multi_query(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    things, codes = haystack.things(rng)[: 2 * _N_VALUES], _codes(rng, 2 * _N_VALUES)
    lines = [f"The secret code of the {thing} is {code}." for thing, code in zip(things, codes)]
    names = ", ".join(f"the {thing}" for thing in things[: _N_VALUES - 1])
    question = f"What are the secret codes of {names} and the {things[_N_VALUES - 1]}?"
    turn = _turn(question, codes[:_N_VALUES], "multi_query", lines[:_N_VALUES])
    return bury(plan, fit, rng, replace(empty, turns=(turn,)), _anywhere(rng, lines), n)


def _variables(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    """Two chains; assignments keep their order, as a program's do."""
    names = ["".join(letters) for letters in rng.sample(list(itertools.product("ABCDEFGHKMPRSTVX", repeat=3)), 10)]
    values = [str(value) for value in rng.sample(range(10_000, 100_000), 2)]
    placed: list[tuple[float, str]] = []
    marked: list[str] = []
    for chain, value in zip((names[:_N_CHAIN], names[_N_CHAIN:]), values):
        sources = [value, *(f"VAR {name}" for name in chain)]
        lines = [f"VAR {name} = {source}." for name, source in zip(chain, sources)]
        placed += zip(sorted(rng.random() for _ in lines), lines)
        marked = marked or lines
    question = f"Which variables hold the value {values[0]}? List all {_N_CHAIN} names."
    turn = _turn(question, names[:_N_CHAIN], "variables", marked)
    return bury(plan, fit, rng, replace(empty, turns=(turn,)), placed, n)


def _common_words(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    """Common words come ten times as often as rare ones, or less in a short prompt, and fill half of the list."""
    words = haystack.plain_words(rng)
    sample = replace(empty, turns=(_turn("Which ten words come most often in the list?", words[:10], "common_words"),))
    room = fit.room(sample, n)
    places = _most(lambda k: _numbered(itertools.islice(itertools.cycle(words), k)), room, room, fit)
    often = min(_COMMON, places // 20)
    if often <= _RARE:
        raise EvaluationError(f"a prompt of {n} tokens is too short for common_words: raise the context")
    listed = [word for word in words[:10] for _ in range(often)]
    others = itertools.cycle(word for word in words[10:] for _ in range(_RARE))
    listed += itertools.islice(others, places - len(listed))
    rng.shuffle(listed)
    while fit.count(_numbered(listed)) > room:
        listed.remove(next(word for word in listed if word not in words[:10]))
    return replace(sample, document=_numbered(listed))


def _frequent_words(plan: SuitePlan, fit: Fit, rng: random.Random, empty: Sample, n: int) -> Sample:
    """Frequencies fall as 1 / rank squared (Zipf)."""
    words = ["".join(s) for s in rng.sample(list(itertools.product(_SYLLABLES, repeat=3)), 60)]
    question = "Which three invented words come most often in the text?"
    sample = replace(empty, turns=(_turn(question, words[:3], "frequent_words"),))
    listed = _zipf(words, _most(lambda k: " ".join(_zipf(words, k)), 2 * n, fit.room(sample, n), fit))
    if listed.count(words[2]) < listed.count(words[3]) + 2:
        raise EvaluationError(f"a prompt of {n} tokens is too short for frequent_words: raise the context")
    rng.shuffle(listed)
    return replace(sample, document=" ".join(listed))


def _zipf(words: list[str], most: int) -> list[str]:
    """The word of rank r comes most / r squared times."""
    return [word for rank, word in enumerate(words, 1) for _ in range(most // rank**2)]


def _most(text: Callable[[int], str], most: int, room: int, fit: Fit) -> int:
    """The largest n up to `most` whose text(n) fits into room tokens, by halving."""
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        low, most = (middle, most) if fit.count(text(middle)) <= room else (low, middle - 1)
    return low


def _turn(question: str, answers: list[str], task: str, marked: Sequence[str] = ()) -> Turn:
    return Turn(question, tuple(answers), task=task, max_tokens=64, marked=tuple(marked))


def _codes(rng: random.Random, n: int) -> list[str]:
    return [str(code) for code in rng.sample(range(1000, 10_000), n)]


def _anywhere(rng: random.Random, lines: list[str]) -> list[tuple[float, str]]:
    return [(rng.random(), line) for line in lines]


def _numbered(words: Iterable[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


_Maker = Callable[[SuitePlan, Fit, random.Random, Sample, int], Sample]
_MAKERS: dict[str, _Maker] = {
    "multi_key": _multi_key,
    "multi_value": _multi_value,
    "multi_query": _multi_query,
    "variables": _variables,
    "common_words": _common_words,
    "frequent_words": _frequent_words,
}
