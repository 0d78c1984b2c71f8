"""A conversation over one document: what one question made the cache drop, the next one may need (arXiv:2412.10319).

The conversation goes on after the model's own answers; as in `Llama`, the end of every question compresses again.

questions: five questions, of which the second, third and fifth count. system: nine questions, then a tenth that meets
a rule of the system prompt which none before it met: that it is obeyed counts. system_fact: the tenth asks for a fact
that stands in the system prompt alone. system_form is for small models, which learned no other rule: the system prompt
asks for German, Spanish or whole sentences, and the form of the tenth answer counts, whatever it says. (A weaker test:
answers copy the ones before.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from . import haystack
from .hay import HINT, bury
from .sample import Audience, Fit, Sample, SuitePlan, Turn, generator

TASKS: dict[str, Audience] = {"questions": "any", "system": "large", "system_fact": "any", "system_form": "small_chat"}

COUNTED = (2, 3, 5)  # questions
N_TURNS = 10  # under a system prompt

_N_DISTRACTORS = 3
_MAGIC_WORDS = ("Ahoy", "Cheerio", "Hurrah", "Bingo")
_FORMS = {  # of answers, as our models learned them (tools/models/chat.py)
    "Answer in German.": "Die Antwort lautet",
    "Answer in Spanish.": "La respuesta es",
    "Answer in a full sentence.": "The answer is",
}


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """`depths * repeats` conversations for each task and context; facts lie at random depths."""
    cells = itertools.product(plan.tasks or TASKS, plan.contexts, range(plan.depths * plan.repeats))
    return [_sample(plan, fit, *cell) for cell in cells]


def _sample(plan: SuitePlan, fit: Fit, task: str, n_context: int, i: int) -> Sample:
    name = f"multi_turn/{task}/{n_context}/{i}"
    rng = generator(plan, name)
    n_turns = max(COUNTED) if task == "questions" else N_TURNS
    kinds = [haystack.KINDS[(i + j) % len(haystack.KINDS)] for j in range(n_turns + _N_DISTRACTORS)]
    facts = haystack.draw_facts(rng, kinds)
    empty = Sample(name, "", (), hint=HINT, split={"context": n_context})
    if task == "system_fact":
        secret = facts.pop(N_TURNS - 1)
        sample = _last(empty, [*facts[: N_TURNS - 1], secret], task, f"{HINT} {secret.sentence}", secret.answer)
    elif task == "system_form":
        rule, words = list(_FORMS.items())[i % len(_FORMS)]
        sample = _last(empty, facts[:N_TURNS], task, rule, words)
    elif task == "system":
        word = rng.choice(_MAGIC_WORDS)
        rule = f'You answer questions about a text. If a question ends with "please", answer with "{word}" only.'
        sample = _last(empty, facts[:N_TURNS], task, rule, word, ending=" Answer, please")
    else:
        sample = replace(empty, turns=_turns(facts[:n_turns], "question", COUNTED))
    return bury(plan, fit, rng, sample, [(rng.random(), fact.sentence) for fact in facts], n_context)


def _last(empty: Sample, asked: list[haystack.Fact], task: str, system: str, answer: str, ending: str = "") -> Sample:
    """Questions under a system prompt; the answer to the last one depends on it."""
    *before, last = _turns(asked, task, (len(asked),))
    last = replace(last, question=last.question + ending, answers=(answer,))
    return replace(empty, turns=(*before, last), system=system)


def _turns(asked: list[haystack.Fact], task: str, counted: Sequence[int]) -> tuple[Turn, ...]:
    return tuple(
        Turn(fact.question, (fact.answer,), task=f"{task} {i}", counted=i in counted) for i, fact in enumerate(asked, 1)
    )
