"""Several answers as the choices of one: to several prompts, or to one prompt several times."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Dict, List

from .generate import Done

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


async def several(
    opened: Iterable[contextlib.AbstractAsyncContextManager[AsyncIterator[Any]]], *, is_stream: bool
) -> AsyncIterator[Any]:
    """Chunks of all, or one whole answer, then Done. Each of `opened` yields the chunks of one choice, and Done."""
    answers: List[Dict[str, Any]] = []
    done: List[Done] = []
    first_id = None
    for index, each in enumerate(opened):
        async with each as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Done):
                    done.append(chunk)
                    continue
                chunk = {**chunk, "choices": [{**choice, "index": index} for choice in chunk["choices"]]}
                first_id = first_id or chunk["id"]
                if is_stream:
                    yield {**chunk, "id": first_id}
                else:
                    answers.append(chunk)
    usage = _sum([each.usage for each in done])
    if not is_stream:
        choices = [choice for answer in answers for choice in answer["choices"]]
        yield {**answers[0], "choices": choices, "usage": {name: usage[name] for name in _COUNTS}}
    yield Done(done[-1].run, usage)


def _sum(usages: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Tokens of all; what the cache holds is that of the last."""
    counts = {name: sum(usage[name] for usage in usages) for name in _COUNTS}
    n_cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return {**usages[-1], **counts, "prompt_tokens_details": {"cached_tokens": n_cached}}
