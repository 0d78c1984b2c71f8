"""Real documents made as long as a prompt may be: the middle goes, what answers a question stays.

Questions about the same document share it as long as all that answers them fits; it is then read once (Sample.group).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Optional

from ..errors import EvaluationError
from .sample import Fit, Sample

_EVIDENCE_SHARE = 0.8  # of a prompt: more questions about its document do not share it
_MOST_CHARACTERS = 8  # a token has fewer: a longer text is not counted
_SAMPLE = 4000  # characters that tell how many a token has

Spans = list[tuple[int, int]]

PAGE_TOKENS = 640  # of each page where questions about several share a prompt


def fitted(fit: Fit, samples: Sequence[Sample], limit: int) -> list[Sample]:
    """Samples with whole documents, cut to prompts of `limit` tokens. Those whose passages alone are longer go."""
    found: list[Sample] = []
    for _, run in itertools.groupby(samples, key=lambda sample: (sample.document, sample.hint, sample.raw)):
        waiting = list(run)
        while waiting:
            together, text = _together(fit, waiting, limit)
            name = together[0].name if len(together) > 1 else ""
            found += [replace(sample, document=text, group=name) for sample in together if text is not None]
            waiting = waiting[len(together) :]
    return found


def packed(fit: Fit, rng: random.Random, samples: Sequence[Sample], limit: int) -> list[Sample]:
    """Samples that share prompts of about `limit` tokens: several documents, cut to as many tokens each, in one text.

    A question's document stands among those of the others. The last few that fill no prompt are left out.
    """
    n_pages = max(limit // PAGE_TOKENS, 1)
    waiting, found = list(samples), []
    rng.shuffle(waiting)
    while len(together := _of_different_documents(waiting, n_pages)) == n_pages:
        waiting = [sample for sample in waiting if sample not in together]
        room = min(fit.room(sample, limit) for sample in together) // n_pages
        pages = [_page(fit, sample, i, room) for i, sample in enumerate(together, 1)]
        text = "\n\n".join(page for page in pages if page is not None)
        name = together[0].name
        found += [replace(s, document=text, group=name) for s, page in zip(together, pages) if page is not None]
    return found


def around(text: str, found: Iterable[tuple[int, int]], reach: int = 200) -> tuple[str, ...]:
    """The sentences that hold what was found at (start, end), no further than `reach` characters to each side."""
    passages = []
    for start, end in found:
        before = max(text.rfind(mark, max(start - reach, 0), start) + 1 for mark in (". ", "\n"))
        after = [at + 1 for mark in (" .", ". ", "\n") if (at := text.find(mark, end, end + reach)) >= 0]
        first = before if before else max(start - reach, 0)
        passages.append(text[first : min(after, default=min(end + reach, len(text)))].strip())
    return tuple(dict.fromkeys(passages))


def shortened(text: str, passages: Iterable[str], room: int, count: Callable[[str], int]) -> Optional[str]:
    """The start and the end of a text, as much of both as fits `room` tokens beside the passages; None if those do not.

    Raises EvaluationError for a passage that the text does not hold.
    """
    if len(text) < _MOST_CHARACTERS * room and count(text) <= room:
        return text
    spans = [_span(text, passage) for passage in passages]
    a_token = _SAMPLE / max(count(text[:_SAMPLE]), 1)  # characters
    n = min(int(room * a_token), len(text)) // 2
    while True:
        kept = _ends(text, spans, n)
        n_over = count(kept) - room
        if n_over <= 0:
            return kept
        if n == 0:
            return None
        n = max(n - int(n_over * a_token / 2) - 8, 0)


def _together(fit: Fit, waiting: Sequence[Sample], limit: int) -> tuple[list[Sample], Optional[str]]:
    """The first samples whose passages fit one prompt, and its document: None where those of one alone do not."""
    room = min(fit.room(sample, limit) for sample in waiting)
    n_passages = itertools.accumulate(sum(map(fit.count, sample.turns[0].marked)) for sample in waiting)
    n_fitting = sum(n <= _EVIDENCE_SHARE * room for n in n_passages)
    chosen = list(waiting[: max(n_fitting, 1)])
    passages = [passage for sample in chosen for passage in sample.turns[0].marked]
    return chosen, shortened(chosen[0].document, passages, room, fit.count)


def _of_different_documents(samples: Sequence[Sample], n: int) -> list[Sample]:
    """The first n samples of n documents, or fewer."""
    found: dict[str, Sample] = {}
    for sample in samples:
        if len(found) < n:
            found.setdefault(sample.document, sample)
    return list(found.values())


def _page(fit: Fit, sample: Sample, number: int, room: int) -> Optional[str]:
    head = f"Page {number}.\n"
    text = shortened(sample.document, sample.turns[0].marked, room - fit.count(f"\n\n{head}"), fit.count)
    return None if text is None else head + text


def _span(text: str, passage: str) -> tuple[int, int]:
    start = text.find(passage)
    if start < 0:
        raise EvaluationError(f"the evidence {passage!r:.60} is not in its context: mark it as it stands there")
    return start, start + len(passage)


def _ends(text: str, spans: Spans, n: int) -> str:
    """n characters at both ends, and the spans; a line break where something is left out before or after a span."""
    parts = _joined([(0, n), *spans, (len(text) - n, len(text))])
    return ("\n" if spans else "").join(text[start:end] for start, end in parts if end > start)


def _joined(spans: Spans) -> Iterator[tuple[int, int]]:
    """Spans that overlap or touch become one."""
    at, end = -1, -1
    for start, stop in sorted(spans):
        if start > end:
            if at >= 0:
                yield at, end
            at, end = start, stop
        end = max(end, stop)
    yield at, end
