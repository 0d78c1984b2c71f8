"""Needle in a haystack: is one fact of a long document still found when most of the cache is gone?

    python -m compresskv_edge.evaluate.needle --prompts 120 --json docs/results/needle.json

Each prompt is a document with one needle at a depth of 0 to 100 %, alone or among facts of its kind, then a question.
Decoding is greedy; an answer is right if its text up to the full stop equals the expected one. As in the paper, the
prompt is evicted once, after it was read: the first answer token comes from the full prompt's logits, so even a method
that keeps nothing useful is right where one token is the answer.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..engine import native
from ..files import write_json
from ..method.budget import resolve_mean_budget
from ..model.packaged import model_path
from ..model.profile import Profile
from ..policies import streaming_llm
from ..runtime.llama import Llama, ProfileSource
from . import haystack
from .needle_report import SPLITS, NeedleOutcome, markdown, report, share

BUDGETS = (0.25, 0.12, 0.06, 0.03)
CONTEXTS = (512, 1024, 2048, 4000)
DEPTHS = tuple(i / 10 for i in range(11))
DISTRACTORS = (0, 4)
PROFILE = "demo"
SEED = 1
PREFILL_MODES = ("compresskv", "compresskv_guided", "compresskv_chunked")

_ANSWER_TOKENS = 16
_STOP = (".", "\n")


@dataclass(frozen=True)
class NeedlePrompt:
    """One question over one document. `n_tokens` is what whole sentences make of the limit `n_context`."""

    text: str
    answer: str
    sentence: str
    kind: str
    n_context: int
    n_tokens: int
    depth: float
    n_distractors: int


#
# prompts
#


def make_prompt(
    seed: int, count: haystack.TokenCounter, *, n_context: int, depth: float, n_distractors: int = 0, kind: str = "code"
) -> NeedlePrompt:
    """A prompt of at most `n_context` tokens (start token included), the same for the same arguments.

    count: tokens of a text, without a start token. Raises ValueError if the facts do not fit.
    """
    rng = random.Random(f"{seed}/{n_context}/{depth}/{n_distractors}/{kind}")
    needle, *others = haystack.draw_facts(rng, [kind] * (n_distractors + 1))
    tail = haystack.question_prompt("", needle.question)
    placed = [(depth, needle.sentence), *((rng.random(), fact.sentence) for fact in others)]
    document = haystack.document(rng, placed, n_context - 1 - count(tail), count)
    text = haystack.question_prompt(document, needle.question)
    return NeedlePrompt(text, needle.answer, needle.sentence, kind, n_context, count(text) + 1, depth, n_distractors)


def make_prompts(
    n: int,
    count: haystack.TokenCounter,
    *,
    seed: int = SEED,
    contexts: Sequence[int] = CONTEXTS,
    distractors: Sequence[int] = DISTRACTORS,
) -> list[NeedlePrompt]:
    """`n` prompts that walk through contexts, depths, distractors and kinds of facts at once."""
    return [
        make_prompt(
            seed + 1000 * i,
            count,
            n_context=contexts[i % len(contexts)],
            depth=DEPTHS[i % len(DEPTHS)],
            n_distractors=distractors[i // len(contexts) % len(distractors)],
            kind=haystack.KINDS[i % len(haystack.KINDS)],
        )
        for i in range(n)
    ]


def token_counter(llm: Llama) -> haystack.TokenCounter:
    """Tokens of a text by the model's tokenizer, without a start token."""
    return lambda text: len(llm.tokenize(text.encode(), add_bos=False))


#
# answers
#


def run_needle(
    prompts: Iterable[NeedlePrompt],
    policy: str,
    budget: float = 1.0,
    *,
    model: str | None = None,
    profile: ProfileSource = PROFILE,
    n_threads: int = 1,
) -> list[NeedleOutcome]:
    """Answer all prompts with one of `POLICIES`, keeping `budget` of each prompt's tokens on average over the layers.

    One thread by default: then the outcome is the same on every run. Raises BudgetError, EngineError, ValueError.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}: use one of {', '.join(POLICIES)}")
    loaded = Profile.load(profile)
    prefill = policy.partition("compresskv_")[2] or "full"
    llm = open_model(model, None if policy == "full" else loaded, budget, n_threads=n_threads, prefill=prefill)
    window = loaded.settings.window
    return [_outcome(llm, prompt, policy, budget, window) for prompt in prompts]


def open_model(
    model: str | None, profile: ProfileSource | None, budget: float, *, n_threads: int = 1, prefill: str = "full"
) -> Llama:
    """The demo model, or the one at the path `model`; flash attention in all cases, so that only the cache differs."""
    options: dict[str, Any] = {"n_ctx": 4096, "n_threads": n_threads, "n_threads_batch": n_threads, "verbose": False}
    if profile is not None:
        # the paper's selection, with no token protected; by default its prefill, however little memory is free
        options.update(kv_budget=budget, kv_prefill=prefill, kv_protect=False)
    return Llama(model or model_path(), kv_profile=profile, flash_attn=True, **options)


def _outcome(llm: Llama, prompt: NeedlePrompt, policy: str, budget: float, window: int) -> NeedleOutcome:
    llm.reset()
    answer = POLICIES[policy](llm, prompt.text, resolve_mean_budget(budget, prompt.n_tokens, window=window))
    stats = llm.kv_stats()
    n_generated = llm.n_tokens - prompt.n_tokens
    return NeedleOutcome(
        policy=policy,
        budget=budget,
        n_context=prompt.n_context,
        depth=prompt.depth,
        n_distractors=prompt.n_distractors,
        correct=is_correct(answer, prompt.answer),
        answer=answer,
        n_kept=sum(stats.n_tokens_kept) / len(stats.n_tokens_kept) - n_generated,
        kv_bytes=stats.kv_bytes,
    )


def is_correct(answer: str, expected: str) -> bool:
    """Equal but for white space and punctuation at the ends."""
    return answer.strip(string.whitespace + string.punctuation) == expected


def _completion(llm: Llama, prompt: str, _budget_tokens: int) -> str:
    """The way that users go; with a profile, the engine evicts by itself."""
    out: Any = llm.create_completion(prompt, max_tokens=_ANSWER_TOKENS, temperature=0.0, stop=list(_STOP))
    return str(out["choices"][0]["text"])


def _streaming_llm(llm: Llama, prompt: str, budget_tokens: int) -> str:
    llm.eval(llm.tokenize(prompt.encode()))
    kept = streaming_llm.keep(llm.n_tokens, budget_tokens)
    native.keep(llm.ctx, [kept] * len(llm.kv_stats().n_tokens_kept))
    return _greedy(llm)


def _greedy(llm: Llama) -> str:
    text = ""
    for _ in range(_ANSWER_TOKENS):
        token = llm.sample(temp=0.0)
        piece = llm.detokenize([token]).decode(errors="replace")
        if token == llm.token_eos() or any(stop in piece for stop in _STOP):
            break
        text += piece
        llm.eval([token])
    return text


POLICIES: dict[str, Callable[[Llama, str, int], str]] = {
    "full": _completion,
    "compresskv": _completion,
    "compresskv_chunked": _completion,
    "compresskv_guided": _completion,
    "streaming_llm": _streaming_llm,
}


#
# command
#


def measure(
    prompts: Sequence[NeedlePrompt],
    *,
    policies: Sequence[str] = ("compresskv", "streaming_llm"),
    budgets: Sequence[float] = BUDGETS,
    model: str | None = None,
    profile: ProfileSource = PROFILE,
    n_threads: int = 1,
    say: Callable[[str], None] = print,
) -> list[NeedleOutcome]:
    """The full cache and every policy at every budget on the same prompts."""
    runs = [("full", 1.0), *((policy, budget) for policy in policies for budget in budgets)]
    outcomes: list[NeedleOutcome] = []
    for policy, budget in runs:
        outcomes += run_needle(prompts, policy, budget, model=model, profile=profile, n_threads=n_threads)
        right = sum(outcome.correct for outcome in outcomes[-len(prompts) :])
        say(f"{policy}, {share(budget)}: {right} of {len(prompts)} right")
    return outcomes


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m compresskv_edge.evaluate.needle", description="needle accuracy of the demo model"
    )
    parser.add_argument("--prompts", type=int, default=120, help="number of prompts (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed, other prompts (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="one thread gives the same answers every time (%(default)s)"
    )
    parser.add_argument("--prefill", action="store_true", help="compare kv_prefill full, guided and chunked, at 3 %%")
    parser.add_argument("--model", help="a GGUF (the demo model)")
    parser.add_argument("--profile", default=PROFILE, help="its profile (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    prompts = make_prompts(options.prompts, token_counter(open_model(options.model, None, 1.0)), seed=options.seed)
    outcomes = measure(
        prompts,
        policies=PREFILL_MODES if options.prefill else ("compresskv", "streaming_llm"),
        budgets=BUDGETS[-1:] if options.prefill else BUDGETS,
        model=options.model,
        profile=options.profile,
        n_threads=options.threads,
    )
    profile = Profile.load(options.profile)
    settings = {"n_prompts": len(prompts), "seed": options.seed, "contexts": CONTEXTS, "distractors": DISTRACTORS}
    results = report(outcomes, {**settings, "profile": profile.model.name, **profile.settings.model_dump()})
    for by in (None, *SPLITS):
        print(f"\n{markdown(results, by)}")
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
