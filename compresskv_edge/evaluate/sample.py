"""What every suite is made of: a document, questions about it one after the other, and how an answer is scored."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional, Protocol, Union

from ..errors import EvaluationError

Split = Union[int, float, str]

ROWS = ("all", "even", "odd")
SHORT_STOP = (".", "\n")  # where the answer of a model without a chat template ends


@dataclass(frozen=True)
class Turn:
    """One question. `metric` is a name of metrics.METRICS; turns that are not `counted` are shown only.

    marked: passages of the document that answer it, as they stand there: how much of them is kept is measured.
    """

    question: str
    answers: tuple[str, ...]
    metric: str = "recall"
    task: str = "answer"
    max_tokens: int = 24
    counted: bool = True
    stop: tuple[str, ...] = SHORT_STOP
    classes: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A prompt and what is asked. `name` is unique in its suite; `split` says where its results are grouped.

    system: a system prompt under test. hint: how to answer, for models with a chat template only. raw: the document
    is the whole prompt, whatever the model's form. group: samples that follow each other and share a document, which is
    read once for all of them; they count as one where intervals are drawn.
    """

    name: str
    document: str
    turns: tuple[Turn, ...]
    system: str = ""
    hint: str = ""
    raw: bool = False
    group: str = ""
    split: Mapping[str, Split] = field(default_factory=dict)


@dataclass(frozen=True)
class SuitePlan:
    """What a suite makes. contexts: tokens of a prompt, template included. tasks: () is all of the suite.

    depths: number of depths from 0 to 1. repeats: prompts for each cell of a grid. questions: niah's about each
    document. rows: of `data`: "all", or "even" and "odd" (counted from 0), for a choice to be made on one half and
    reported on the other. answer_tokens: the most that an answer to `data` may have; None: its set's.
    """

    contexts: tuple[int, ...] = (1024, 2048, 4096)
    depths: int = 11
    repeats: int = 1
    seed: int = 1
    tasks: tuple[str, ...] = ()
    haystack: Optional[Path] = None
    data: Optional[Path] = None
    decode_tokens: int = 256
    questions: int = 1
    rows: str = "all"
    answer_tokens: Optional[int] = None

    def __post_init__(self) -> None:
        if not self.contexts or min(self.contexts) < 128:
            raise EvaluationError(f"contexts are {list(self.contexts)}: give at least one, each 128 tokens or more")
        if self.depths < 1 or self.repeats < 1 or self.decode_tokens < 2:
            raise EvaluationError(
                f"depths is {self.depths}, repeats {self.repeats}, decode_tokens {self.decode_tokens}: "
                "use 1, 1 and 2 or more"
            )

        if self.questions < 1 or self.questions > self.depths or self.rows not in ROWS:
            raise EvaluationError(
                f"questions is {self.questions}, rows {self.rows!r}: use 1 to {self.depths} (the depths), and one of "
                f"{', '.join(ROWS)}"
            )

    def grid(self) -> list[float]:
        """Depths from 0 (start of the document) to 1 (its end); a single one is the middle."""
        return [0.5] if self.depths == 1 else [round(i / (self.depths - 1), 4) for i in range(self.depths)]


class Fit(Protocol):
    """Lengths as the model counts them."""

    def count(self, text: str) -> int:
        """Tokens of a text inside a prompt."""

    def room(self, sample: Sample, n_tokens: int) -> int:
        """Tokens left for the document of a sample (its own is not counted) in a prompt of n_tokens."""


# models that a task is for: small ones have a few million parameters, those of "small_chat" a chat template as well
Audience = Literal["any", "large", "small", "small_chat"]


class Suite(Protocol):
    """A module: what it asks, and of which models."""

    TASKS: Mapping[str, Audience]

    def make(self, plan: SuitePlan, fit: Fit) -> list[Sample]:
        """The samples of a plan, the same for the same arguments. Raises EvaluationError."""


def choose_tasks(
    known: Mapping[str, Audience], wanted: Sequence[str], *, small: bool, chat: bool = False
) -> tuple[str, ...]:
    """The tasks to run: those wanted, or all that are for such a model. Raises EvaluationError for an unknown one."""
    for task in wanted:
        if task not in known:
            raise EvaluationError(f"task is {task!r}: use {', '.join(known)}")
    audiences = {"any", "small" if small else "large", *(("small_chat",) if small and chat else ())}
    return tuple(wanted) or tuple(task for task, audience in known.items() if audience in audiences)


def generator(plan: SuitePlan, *parts: object) -> random.Random:
    """A random generator for each prompt: adding other prompts changes nothing."""
    return random.Random("/".join(map(str, (plan.seed, *parts))))
