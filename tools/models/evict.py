"""Heads that matter, through llama.cpp: the masking ablation, and answers after an eviction by several choices of them.

`python tools/models/evict.py NAME.gguf NAME.srh.json OUT.json --books BOOK...`. The prompt is evicted once, after it
was read; the first token of the answer comes from the full prompt. Every layer has the same budget.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from gguf_copy import silence, top_heads
from measure import LlamaEncoder, answers, is_right, next_token, open_model
from prompts import SIMPLE, Book, Prompt, Task, make_prompt
from text import Encoder

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.model.profile import Settings
from compresskv_edge.policies import streaming_llm

Scores = list[list[float]]
Evict = Callable[[Llama, Prompt], None]
N_SINK, WINDOW = 4, 8
SHARES = (0.01, 0.03, 0.06, 0.12)


def make_prompts(encoder: Encoder, books: list[Book], n: int, n_token: int, seed: str) -> list[Prompt]:
    """One needle among four facts of its kind, at all depths, plain and chat in turn."""
    tasks = [Task(n_token, i % 11 / 10, 4, SIMPLE[i % len(SIMPLE)], chat=i % 2 == 1) for i in range(n)]
    return [make_prompt(f"{seed} {n_token} {i}", encoder, books[i % len(books)], t) for i, t in enumerate(tasks)]


def n_right(gguf: Path, prompts: list[Prompt]) -> int:
    llm = open_model(gguf)
    right = sum(answers(llm, p)[0] for p in prompts)
    llm.close()
    return right


def ablation(gguf: Path, scores: Scores, prompts: list[Prompt], n_draw: int) -> dict[str, object]:
    """Right answers with all heads, without the top tenth by semantic score, without as many random others."""
    top, others = top_heads(scores)
    with tempfile.TemporaryDirectory() as folder:

        def without(heads: list[tuple[int, int]]) -> int:
            return n_right(silence(gguf, Path(folder) / "silenced.gguf", heads), prompts)

        draws = [without(random.Random(i).sample(others, len(top))) for i in range(n_draw)]
        return {
            "n": len(prompts),
            "top": top,
            "all": n_right(gguf, prompts),
            "no_top": without(top),
            "no_others": draws,
        }


def after(llm: Llama, prompt: Prompt, ways: dict[str, Evict]) -> dict[str, bool]:
    """Whether the answer is right after each of several evictions of the same prompt, which is read once."""
    llm.reset()
    llm.eval(prompt.ids)
    first = next_token(llm) == prompt.answer[0]
    state, right = llm.save_state(), {}
    for name, evict in ways.items():
        llm.load_state(state)
        evict(llm, prompt)
        llm.eval(prompt.answer[:1])
        right[name] = is_right(llm, prompt.answer[1:]) and first
    return right


def keep(positions: Callable[[Prompt], list[int]]) -> Evict:
    return lambda llm, prompt: native.keep(llm.ctx, [positions(prompt)] * len(llm.kv_stats().n_tokens_kept))


def oracle(prompt: Prompt) -> list[int]:
    """Four sinks, the sentence that answers, the window."""
    n = len(prompt.ids)
    return sorted({*range(N_SINK), *(t for a, b in prompt.evidence for t in range(a, b)), *range(n - WINDOW, n)})


def budget(prompt: Prompt, share: float) -> int:
    return max(round(share * len(prompt.ids)), N_SINK + WINDOW)


def streaming(prompt: Prompt, share: float) -> list[int]:
    return list(streaming_llm.keep(len(prompt.ids), budget(prompt, share)))


def compress(llm: Llama, prompt: Prompt, share: float) -> None:
    llm.compress(budget(prompt, share))


def eviction(
    gguf: Path, scores: Scores, prompts: list[Prompt], shares: tuple[float, ...], n_heads: tuple[int, ...]
) -> dict[str, int]:
    """Right answers with the full cache, the oracle's, StreamingLLM's, and those chosen by the best n heads a layer."""
    ranked = tuple(tuple(sorted(range(len(row)), key=lambda h: -row[h])) for row in scores)
    worst = tuple(tuple(reversed(row)) for row in ranked)
    choices = {f"best {n}": (ranked, n) for n in n_heads} | {"worst 4": (worst, 4)}
    ways: dict[str, Evict] = {"full": lambda llm, prompt: None, "oracle": keep(oracle)}
    ways |= {f"streaming {share:.0%}": keep(functools.partial(streaming, share=share)) for share in shares}
    results: dict[str, int] = {"n": len(prompts)}
    for name, (heads, n_head) in choices.items():
        ways |= {f"{name} {share:.0%}": functools.partial(compress, share=share) for share in shares}
        profile = Profile.uniform(gguf).model_copy(update={"heads_ranked": heads, "settings": Settings(n_heads=n_head)})
        llm = open_model(gguf, kv_profile=profile, kv_budget=0.5, kv_prefill="full")
        found = [after(llm, p, ways) for p in prompts]
        llm.close()
        results |= {way: sum(right[way] for right in found) for way in ways}
        print({way: results[way] for way in ways}, "of", len(prompts), flush=True)
        ways = {}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("scores", type=Path, help="of heads.py")
    parser.add_argument("json", type=Path, help="figures are added to those of the file")
    parser.add_argument("--books", type=Path, nargs="+", required=True, help="text files that were not trained on")
    parser.add_argument("--n", type=int, default=44)
    parser.add_argument("--n-token", type=int, default=4096)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--heads", type=int, nargs="+", help="of each layer that choose (1, 2, 4 and all)")
    parser.add_argument("--n-draw", type=int, default=5, help="draws of random heads of the ablation, 0: no ablation")
    parser.add_argument("--seed", default="card evict")
    a = parser.parse_args()
    scores: Scores = json.loads(a.scores.read_text())
    llm = open_model(a.gguf)
    encoder = LlamaEncoder(llm)
    books = [Book(encoder, path) for path in a.books]
    card = json.loads(a.json.read_text()) if a.json.exists() else {}
    if a.n_draw:
        short = make_prompts(encoder, books, a.n, 1024, a.seed)
        card["ablation"] = ablation(a.gguf, scores, short, a.n_draw)
        print(card["ablation"], flush=True)
    prompts = make_prompts(encoder, books, a.n, a.n_token, a.seed)
    card.setdefault("eviction", {})[str(a.n_token)] = eviction(
        a.gguf, scores, prompts, tuple(a.shares), tuple(a.heads or (1, 2, 4, len(scores[0])))
    )
    a.json.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
