"""`make demo`: questions about one long document, answered with the full cache and with a compressed one, side by side.

Everything shown is measured while it runs; the document is generated, its facts are as in evaluate/haystack.py.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .evaluate import haystack
from .llama import KVStats, Llama

BUDGET = 0.12  # what the demo model bears: docs/results/needle.json
N_TOKENS = 3700  # of the prompt; the model ends at 4096
SEED = 1

_N_DECODE = 64
_NARROW = 64  # columns


@dataclass(frozen=True)
class Answer:
    """One question. `depth` is where its fact lies: 0 at the start of the document, 1 at its end."""

    question: str
    depth: float
    expected: str
    full: str
    compressed: str


@dataclass(frozen=True)
class Measurement:
    """One prompt read, compressed (or not), then tokens decoded one by one. Times in milliseconds."""

    prefill_ms: float
    eviction_ms: float
    decode_tokens_per_s: float
    kv: KVStats


@dataclass(frozen=True)
class Result:
    """What the demo shows, as it goes into the JSON file."""

    n_prompt_tokens: int
    budget: int | float
    answers: tuple[Answer, ...]
    full: Measurement
    compressed: Measurement


def model_path() -> str:
    """Path of the model that ships with the package: 4.4 M parameters, context 4096, made to find facts in text."""
    return str(Path(__file__).parent / "models" / "tiny-needle2-q8_0.gguf")


def run(
    budget: int | float | None = None,
    *,
    n_questions: int = 5,
    json_path: Path | None = None,
    console: Console | None = None,
) -> int:
    """Measure and show; returns the exit status.

    budget: as `kv_budget` of Llama, None: BUDGET. Raises BudgetError, EngineError, ValueError.
    """
    if n_questions < 1:
        raise ValueError(f"n_questions is {n_questions}: ask 1 or more")
    console = console or Console()
    with console.status("reading a long document"):
        result = measure(BUDGET if budget is None else budget, n_questions)
    _show(result, console)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


#
# measure
#


def measure(budget: int | float, n_questions: int = 5) -> Result:
    """Ask every question with both caches, then time both on the last prompt."""
    full, compressed = _open(), _open(kv_profile="tiny-needle2", kv_budget=budget, kv_prefill="full")
    placed = _facts(n_questions)
    document = haystack.document(random.Random(SEED), [(d, f.sentence) for d, f in placed], N_TOKENS - 40, _count(full))
    answers = []
    for depth, fact in placed:
        prompt = haystack.question_prompt(document, fact.question)
        # the full cache still holds the document from the question before; the compressed one reads it anew
        answers.append(Answer(fact.question, depth, fact.answer, *(_ask(llm, prompt) for llm in (full, compressed))))
    tokens = full.tokenize(prompt.encode())
    timed = (_time(full, tokens, compress=False), _time(compressed, tokens, compress=True))
    return Result(len(tokens), budget, tuple(answers), *timed)


def _open(**kv: Any) -> Llama:
    # Decoding: a model this small is fastest on one core. Prompts: threads that wait for a busy core cost more than
    # they bring, so half of the cores. Without `kv` all else is llama-cpp-python's default, as users have it today.
    n_threads_batch = max(1, (os.cpu_count() or 1) // 2)
    return Llama(model_path(), n_ctx=4096, n_threads=1, n_threads_batch=n_threads_batch, verbose=False, **kv)


def _facts(n: int) -> list[tuple[float, haystack.Fact]]:
    """(depth, fact) of n different facts, spread evenly over the document."""
    rng = random.Random(SEED)
    kinds = [haystack.KINDS[i % len(haystack.KINDS)] for i in range(n)]
    facts = haystack.draw_facts(rng, kinds)
    return [((i + 0.5) / n, fact) for i, fact in enumerate(facts)]


def _count(llm: Llama) -> haystack.TokenCounter:
    return lambda text: len(llm.tokenize(text.encode(), add_bos=False))


def _ask(llm: Llama, prompt: str) -> str:
    out: Any = llm.create_completion(prompt, max_tokens=16, temperature=0.0, stop=[".", "\n"])
    return str(out["choices"][0]["text"]).strip()


def _time(llm: Llama, tokens: Sequence[int], *, compress: bool) -> Measurement:
    llm.reset()
    eviction_ms = llm.kv_stats().eviction_ms
    start = time.perf_counter()
    llm.eval(tokens)
    prefill_ms = 1000 * (time.perf_counter() - start)
    if compress:
        llm.compress()
    kv = llm.kv_stats()
    seconds = statistics.median(_decode_time(llm, token) for token in tokens[1 : _N_DECODE + 1])
    return Measurement(prefill_ms, kv.eviction_ms - eviction_ms, 1 / seconds, kv)


def _decode_time(llm: Llama, token: int) -> float:
    start = time.perf_counter()
    llm.eval([token])
    return time.perf_counter() - start


#
# show
#


def _show(result: Result, console: Console) -> None:
    console.print(f"\n{len(result.answers)} questions about one document of {result.n_prompt_tokens} tokens\n")
    if console.width >= _NARROW:
        console.print(_answers_table(result))
    else:
        _show_answers_as_list(result, console)
    console.print("The full cache held the document from one question to the next; eviction read it for each.")
    console.print("\nTokens kept per layer")
    for layer, n_kept in enumerate(result.compressed.kv.n_tokens_kept):
        console.print(_bar(layer, n_kept, result.n_prompt_tokens, console), highlight=False)
    console.print()
    console.print(_numbers_table(result))
    console.print(f"\n{_point(result)}\n", highlight=False)


def _answers_table(result: Result) -> Table:
    table = _table("question", "depth", "expected", "full cache", "compressed")
    for answer in result.answers:
        cells = [_marked(text, answer.expected) for text in (answer.full, answer.compressed)]
        table.add_row(answer.question, f"{answer.depth:.0%}", answer.expected, *cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _show_answers_as_list(result: Result, console: Console) -> None:
    for answer in result.answers:
        console.print(f"{answer.question} [{answer.depth:.0%} deep]", markup=False)
        console.print("  expected:", answer.expected)
        console.print("  full cache:", _marked(answer.full, answer.expected))
        console.print("  compressed:", _marked(answer.compressed, answer.expected), end="\n\n")


def _marked(text: str, expected: str) -> Text:
    return Text(text, style="green") if text == expected else Text(f"{text} (wrong)", style="red")


def _bar(layer: int, n_kept: int, n_tokens: int, console: Console) -> str:
    filled, empty = ("█", "░") if console.encoding.startswith("utf") else ("#", ".")
    width = max(1, min(30, console.width - 18))
    n = max(1, round(width * n_kept / n_tokens))
    return f"  {layer:2d} {filled * n}{empty * (width - n)} {n_kept:4d} ({n_kept / n_tokens:.0%})"


def _numbers_table(result: Result) -> Table:
    table = _table("", "full cache", "compressed")
    rows: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
        ("KV cache while answering, MB", lambda m: f"{m.kv.kv_bytes / 1e6:.2f}"),
        ("KV cache at its peak, MB", lambda m: f"{m.kv.kv_bytes_peak / 1e6:.2f}"),
        ("reading the prompt, ms", lambda m: f"{m.prefill_ms:.0f}"),
        ("eviction, ms", lambda m: f"{m.eviction_ms:.1f}"),
        ("decoding, tokens/s", lambda m: f"{m.decode_tokens_per_s:.0f}"),
    )
    for name, text in rows:
        table.add_row(name, text(result.full), text(result.compressed))
    return table


def _point(result: Result) -> str:
    n_right = [sum(getattr(a, side) == a.expected for a in result.answers) for side in ("full", "compressed")]
    kept = result.compressed.kv.n_tokens_kept
    share = sum(kept) / len(kept) / result.n_prompt_tokens
    speed = result.compressed.decode_tokens_per_s / result.full.decode_tokens_per_s
    return (
        f"With {share:.0%} of the tokens, the model answers {n_right[1]} of {len(result.answers)} questions "
        f"(full cache: {n_right[0]}), decodes {speed:.1f} times as fast, and its cache takes "
        f"{result.compressed.kv.kv_bytes / result.full.kv.kv_bytes:.0%} of the memory."
    )
