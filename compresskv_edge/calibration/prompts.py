"""From a plan and a corpus to documents with needles in them, and to the tokens of each question.

One document carries several needles, and is read once for all of its questions: reading is what takes the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any, Callable, Optional

from ..errors import CalibrationError
from .corpus import Corpus, Needle

TokenCounter = Callable[[str], int]
Render = Callable[[str], str]


# with fewer prompts that count, a ranking would be chance
MIN_COUNTED = 3


@dataclass(frozen=True)
class Plan:
    """How much is measured. Lengths in tokens; the defaults are the quick setting.

    Each document is read once. The first ones rank the heads; the others do so too, and what their layers lose is
    measured with the heads that the first ones ranked.
    """

    n_documents: int = 8
    n_error_documents: int = 4  # the last of them, for the layer errors as well; 0: none are measured
    n_curve_documents: int = 0  # the last of these, one question each for the error curves; 0: none are measured
    n_questions: int = 5  # needles of one document
    min_tokens: int = 512  # of the shortest prompt
    max_tokens: int = 2048  # of the longest
    answer_tokens: int = 24  # an answer is cut off here
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.n_documents, self.n_questions, self.answer_tokens - 1)
        if min(counts) < 1 or not 0 <= self.n_curve_documents <= self.n_error_documents < self.n_documents:
            raise CalibrationError(
                f"{self} cannot be run: a document and a question or more, fewer documents for errors than in all, "
                "and no more for curves than for errors"
            )
        if not 128 <= self.min_tokens <= self.max_tokens:
            raise CalibrationError(
                f"lengths of {self.min_tokens} to {self.max_tokens} tokens: the shortest prompt must have 128 or more, "
                "and the longest no fewer than it"
            )

    @property
    def n_head_documents(self) -> int:
        """Those before the layer errors."""
        return self.n_documents - self.n_error_documents

    @property
    def enough(self) -> int:
        """Needles to be found before the layer errors; where fewer are, short documents are read beside."""
        return max(MIN_COUNTED, self.n_head_documents * self.n_questions // 2)

    def lengths(self) -> list[int]:
        """Length of each document: evenly spread, in an order in which every beginning is spread as well."""
        steps = max(self.n_documents - 1, 1)
        sizes = [self.max_tokens - i * (self.max_tokens - self.min_tokens) // steps for i in range(self.n_documents)]
        return [sizes[i] for i in _spread_order(self.n_documents)]

    def more(self) -> Plan:
        """Of the short documents that are read beside where few needles were found: as many as ranked the heads."""
        return replace(
            self,
            n_documents=self.n_head_documents,
            n_error_documents=0,
            n_curve_documents=0,
            max_tokens=self.min_tokens,
            seed=-1 - self.seed,
        )


QUESTION_TOKENS = 40  # with the form's own, about

QUICK = Plan()
THOROUGH = Plan(n_documents=10, n_error_documents=5, n_questions=8, max_tokens=3072)


@dataclass(frozen=True)
class NeedleDocument:
    """A text with needles in it, asked about one after the other. depths: 0 is before all hay, 1 after it."""

    haystack: str
    n_tokens: int  # limit of a prompt
    needles: tuple[Needle, ...]
    depths: tuple[float, ...]
    text: str

    def ask(self, needle: Needle, render: Render) -> str:
        """The prompt of one question. Without a chat template it begins the answer: a base model goes on with it."""
        asked = render(f"{self.text}\n\nQuestion: {needle.question}")
        return f"{asked} {needle.begin}".rstrip() if render is plain else asked


def make_documents(corpus: Corpus, plan: Plan, count: TokenCounter, n_overhead: int) -> list[NeedleDocument]:
    """The plan's documents; the same for the same arguments.

    count: tokens of a text, without a start token. n_overhead: tokens that the chat template adds to a prompt.
    """
    rng = random.Random(f"calibration/{plan.seed}")
    needles, depths = _deal(corpus.needles, plan, rng), _depths(plan, rng)
    shift = rng.randrange(len(corpus.haystacks))
    documents = []
    for i, length in enumerate(plan.lengths()):
        hay = corpus.hay(i + shift, random.Random(f"hay/{plan.seed}/{i}"))
        room = length - n_overhead - max(count(f"\n\nQuestion: {each.question} {each.begin}") for each in needles[i])
        hand = _fitting(needles[i], room, count)
        text = _compose(hay, list(zip(depths[i], hand)), room, count)
        name = corpus.haystacks[(i + shift) % len(corpus.haystacks)].name
        documents.append(NeedleDocument(name, length, hand, depths[i][: len(hand)], text))
    return documents


def _fitting(needles: tuple[Needle, ...], room: int, count: TokenCounter) -> tuple[Needle, ...]:
    """One needle or more, as long as they are no more than half of a short document."""
    ends = list(accumulate(count(" " + needle.sentence) for needle in needles))
    return needles[: max(sum(2 * end <= room for end in ends), 1)]


def _deal(needles: Sequence[Needle], plan: Plan, rng: random.Random) -> list[tuple[Needle, ...]]:
    """Needles of each document, of different kinds as far as there are any; all are used before one comes again."""
    stock: list[Needle] = []
    hands = []
    for _ in range(plan.n_documents):
        hand: list[Needle] = []
        while len(hand) < min(plan.n_questions, len(needles)):
            if not any(needle not in hand for needle in stock):
                stock += rng.sample(list(needles), len(needles))
            kinds = {needle.kind for needle in hand}
            free = [needle for needle in stock if needle not in hand]
            hand.append(next((needle for needle in free if needle.kind not in kinds), free[0]))
            stock.remove(hand[-1])
        hands.append(tuple(hand))
    return hands


def _depths(plan: Plan, rng: random.Random) -> list[tuple[float, ...]]:
    """Depths of each document's needles: an even grid from 0 to 1, and each document has one of each part of it."""
    n = plan.n_documents * plan.n_questions
    grid = [i / max(n - 1, 1) for i in range(n)]
    parts = [grid[j * plan.n_documents : (j + 1) * plan.n_documents] for j in range(plan.n_questions)]
    for part in parts:
        rng.shuffle(part)
    rows = [list(row) for row in zip(*parts)]
    for row in rows:
        rng.shuffle(row)
    return [tuple(row) for row in rows]


def _compose(hay: Iterator[str], placed: Sequence[tuple[float, Needle]], room: int, count: TokenCounter) -> str:
    room -= sum(count(" " + needle.sentence) for _, needle in placed)
    chosen, ends = [], [0]
    for sentence in hay:
        end = ends[-1] + count(" " + sentence)
        if end > room:
            break
        chosen.append(sentence)
        ends.append(end)
    middles = [(a + b) / 2 / max(ends[-1], 1) for a, b in zip(ends, ends[1:])]
    rows = sorted(
        [*((depth, needle.sentence) for depth, needle in placed), *zip(middles, chosen)], key=lambda row: row[0]
    )
    return " ".join(sentence for _, sentence in rows)


def _spread_order(n: int) -> list[int]:
    """0..n-1 by reversed bits: 0, 4, 2, 6, 1, 5, 3, 7 for n = 8."""
    bits = max((n - 1).bit_length(), 1)
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < n]


#
# the form of a prompt
#


def plain(text: str) -> str:
    """For models without a chat template: the answer is how the text goes on."""
    return f"{text}\nAnswer:"


def chat(template: str, bos: str, eos: str) -> Render:
    """The GGUF's own chat template with one user turn. Raises CalibrationError if it cannot be used."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    formatter: Any = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)
    formatter.strftime_now = _DAY.strftime  # some templates write the date: the same prompt on every day

    def render(text: str) -> str:
        content = f"{text}\nAnswer with the words of the text, in one short sentence."
        messages = [{"role": "user", "content": content}]
        try:
            return str(formatter(messages=messages, enable_thinking=False).prompt)
        except Exception as error:  # whatever a template may raise
            raise CalibrationError(f"the model's chat template fails ({error}): use chat=False") from error

    return render


_DAY = datetime(2024, 7, 26)


def find_span(pieces: Sequence[bytes], needle: str) -> Optional[tuple[int, int]]:
    """Tokens that hold a text: pieces are the bytes of each token. (first, last + 1), None if it is not there."""
    whole, wanted = b"".join(pieces), needle.encode()
    start = whole.find(wanted)
    if start < 0:
        return None
    end, at, first, last = start + len(wanted), 0, 0, 0
    for i, piece in enumerate(pieces):
        if at <= start:
            first = i
        if at < end:
            last = i
        at += len(piece)
    return first, last + 1
