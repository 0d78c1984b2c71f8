"""Read once, asked five times: answers over a digest against answers over the full cache.

    python -m compresskv_edge.evaluate.digest --documents 40 --json docs/results/digest.json

Each document holds five facts of different kinds; they are asked one after the other, in random order, every question
directly behind the document. The digest is made before any question is known.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..files import write_json
from ..model.packaged import model_path
from ..model.profile import Profile
from ..runtime.digest import N_QUESTIONS, PROBES
from ..runtime.llama import Llama
from . import haystack
from .needle import is_correct, token_counter
from .wilson import shares

N_FACTS = 5
LENGTHS = (1000, 2000)  # tokens of the documents, in turn
BUDGET = 0.12
PROFILE = "demo"

_ANSWER_TOKENS = 16
_STOP = (".", "\n")


@dataclass(frozen=True)
class DigestDocument:
    """A text and the facts in it, in the order in which they are asked."""

    text: str
    facts: tuple[haystack.Fact, ...]
    n_tokens: int


def make_document(seed: int, count: haystack.TokenCounter, n_tokens: int) -> DigestDocument:
    """A document of at most `n_tokens` with its facts spread over it; the same for the same arguments."""
    rng = random.Random(f"digest/{seed}/{n_tokens}")
    kinds = [haystack.KINDS[(seed + i) % len(haystack.KINDS)] for i in range(N_FACTS)]
    facts = haystack.draw_facts(rng, kinds)
    placed = [((i + rng.random()) / N_FACTS, fact.sentence) for i, fact in enumerate(facts)]
    text = haystack.document(rng, placed, n_tokens, count)
    return DigestDocument(text, tuple(rng.sample(facts, N_FACTS)), n_tokens)


def answers(llm: Llama, tokens: Sequence[int], document: DigestDocument) -> list[bool]:
    """Whether each question is answered right; the document's tokens are in the cache or are run now."""
    return [_is_right(llm, tokens, fact) for fact in document.facts]


def _is_right(llm: Llama, tokens: Sequence[int], fact: haystack.Fact) -> bool:
    question = llm.tokenize(haystack.question_prompt("", fact.question).encode(), add_bos=False)
    out: Any = llm.create_completion([*tokens, *question], max_tokens=_ANSWER_TOKENS, temperature=0.0, stop=list(_STOP))
    return is_correct(str(out["choices"][0]["text"]), fact.answer)


def measure(
    documents: Sequence[DigestDocument],
    *,
    model: str,
    profile: str = PROFILE,
    budget: float = BUDGET,
    prefill: str = "full",
    probe: str = "ask",
    n_questions: int = N_QUESTIONS,
    n_threads: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Both caches on all documents: shares of right answers by the number of the question."""
    options: dict[str, Any] = {"n_ctx": 4096, "n_threads": n_threads, "n_threads_batch": n_threads, "verbose": False}
    full = Llama(model, flash_attn=True, **options)
    llm = Llama(model, kv_profile=profile, kv_budget=budget, kv_prefill=prefill, **options)
    rows: dict[str, list[list[bool]]] = {"full": [], "digest": []}
    for document in documents:
        rows["full"].append(answers(full, full.tokenize(document.text.encode()), document))
        session = llm.digest(document.text, probe=probe, n_questions=n_questions)
        rows["digest"].append(answers(llm, session.tokens.tolist(), document))
        say(f"{len(rows['full'])} documents: " + ", ".join(f"{name} {_mean(row):.3f}" for name, row in rows.items()))
    return {name: _score(row) for name, row in rows.items()}


def _mean(rows: Sequence[Sequence[bool]]) -> float:
    return sum(map(sum, rows)) / sum(map(len, rows))


def _score(rows: Sequence[Sequence[bool]]) -> dict[str, Any]:
    by_question = [round(sum(column) / len(rows), 4) for column in zip(*rows)]
    return {**shares(sum(map(sum, rows)), sum(map(len, rows))), "by_question": by_question}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m compresskv_edge.evaluate.digest", description="several questions over a document read once"
    )
    parser.add_argument("--documents", type=int, default=40, help="number of documents (%(default)s)")
    parser.add_argument("--model", default=model_path(), help="a GGUF (the demo model)")
    parser.add_argument("--profile", default=PROFILE, help="its profile (%(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="fraction that stays (%(default)s)")
    parser.add_argument("--prefill", default="full", help="kv_prefill while the document is read (%(default)s)")
    parser.add_argument("--probe", default="ask", help=f"{', '.join(PROBES)} (%(default)s)")
    parser.add_argument("--questions", type=int, default=N_QUESTIONS, help="for each thousand tokens (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="one gives the same answers every time (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    count = token_counter(Llama(options.model, n_ctx=512, verbose=False))
    documents = [make_document(i, count, LENGTHS[i % len(LENGTHS)]) for i in range(options.documents)]
    settings = {name: getattr(options, name) for name in ("documents", "budget", "prefill", "probe", "questions")}
    settings["profile"] = Profile.load(options.profile).model.name
    results = measure(
        documents,
        model=options.model,
        profile=options.profile,
        budget=options.budget,
        prefill=options.prefill,
        probe=options.probe,
        n_questions=options.questions,
        n_threads=options.threads,
    )
    report = {"settings": {**settings, "model": Path(options.model).name, "lengths": LENGTHS}, **results}
    print(json.dumps(report, indent=1))
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
