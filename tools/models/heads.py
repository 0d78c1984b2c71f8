"""What the heads of a checkpoint do (PyTorch): `python tools/models/heads.py DIR/last.pt BOOK [--n-token 1024]`.

Semantic retrieval scores, the masking ablation, and answers under one-shot eviction by several choices of heads.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import data
import torch
import torch.nn.functional as F
from export import load
from model import Model, rms_norm, rope_tables
from prompts import Book, Prompt, Task, make_prompt
from torch import Tensor

Head = tuple[int, int]
Caches = list[tuple[Tensor, Tensor, Tensor]]
WINDOW, KERNEL, N_SINK = 8, 5, 4


@torch.no_grad()
def read(model: Model, ids: list[int], keep_heads: Tensor | None = None) -> tuple[Tensor, Caches]:
    """Logits (token, vocab) and queries, keys, values (head, token, channel) of each layer."""
    logits, caches = model(torch.tensor([ids]), torch.arange(len(ids))[None], keep_heads=keep_heads)
    return logits[0], [(q[0], k[0], v[0]) for q, k, v in caches]


def attention(cache: tuple[Tensor, Tensor, Tensor], queries: range) -> Tensor:
    """(head, query, token), causal."""
    q, k, _ = cache
    q = q[:, list(queries)].view(k.shape[0], -1, len(queries), q.shape[-1])
    scores = torch.einsum("kgtd,ksd->kgts", q, k).flatten(0, 1) * q.shape[-1] ** -0.5
    later = torch.arange(k.shape[1]) > torch.tensor(list(queries))[:, None]
    return scores.masked_fill(later, -1e9).softmax(-1)


def right(logits: Tensor, prompt: Prompt) -> bool:
    """Whether greedy decoding gives the answer, from logits of the prompt followed by the answer."""
    n = len(prompt.answer)
    return logits[-n - 1 : -1].argmax(-1).tolist() == prompt.answer


def semantic_scores(model: Model, prompts: list[Prompt]) -> Tensor:
    """(layer, head): attention on the evidence, mean over the steps that produce a token of it, over right prompts."""
    total, n_counted = torch.zeros(model.config.n_layer, model.config.n_head), 0
    for p in prompts:
        logits, caches = read(model, p.ids + p.answer)
        if not right(logits, p):
            continue
        a, b = p.evidence
        steps = [len(p.ids) - 1 + i for i, t in enumerate(p.answer) if t in p.ids[a:b]]
        for layer, cache in enumerate(caches):
            rows = torch.cat([attention(cache, range(s, s + 1)) for s in steps], 1)
            total[layer] += rows[..., a:b].sum(-1).mean(1)
        n_counted += 1
    return total / max(1, n_counted)


def accuracy_without(model: Model, prompts: list[Prompt], silenced: list[Head]) -> float:
    keep = torch.ones(model.config.n_layer, 1, model.config.n_head)
    for layer, head in silenced:
        keep[layer, 0, head] = 0.0
    return sum(right(read(model, p.ids + p.answer, keep)[0], p) for p in prompts) / len(prompts)


def masking_table(model: Model, prompts: list[Prompt], scores: Tensor, n_draw: int = 5) -> None:
    """The paper's ablation: silence the top tenth of the heads by semantic score, or as many others."""
    order = [divmod(int(i), model.config.n_head) for i in scores.flatten().argsort(descending=True)]
    n_top = round(0.1 * len(order))
    top, rest = order[:n_top], order[n_top:]
    share = scores.flatten().sort().values[-n_top:].sum() / scores.sum()
    print(f"top {n_top} heads {top} hold {share:.3f} of the score")
    print(f"nothing masked {accuracy_without(model, prompts, []):.3f}")
    print(f"top masked {accuracy_without(model, prompts, top):.3f}")
    others = [accuracy_without(model, prompts, random.Random(i).sample(rest, n_top)) for i in range(n_draw)]
    print(f"as many others masked {sum(others) / n_draw:.3f} {[round(x, 3) for x in others]}", flush=True)


# ---- eviction -------------------------------------------------------------------------------------------------------


def select(scores: Tensor, budget: int) -> Tensor:
    """Section 1 of the method: pooled column sums (head, token) -> kept tokens, the window included."""
    n_token = scores.shape[-1]
    pooled = F.avg_pool1d(scores[None, :, : n_token - WINDOW], KERNEL, 1, KERNEL // 2)[0].mean(0)
    kept = pooled.topk(min(max(budget - WINDOW, 1), len(pooled))).indices
    return torch.cat([kept.sort().values, torch.arange(n_token - WINDOW, n_token)])


def streaming(n_token: int, budget: int) -> Tensor:
    return torch.cat([torch.arange(N_SINK), torch.arange(n_token - budget + N_SINK, n_token)])


def oracle(prompt: Prompt) -> Tensor:
    """Four sinks, the evidence and the window."""
    n = len(prompt.ids)
    return torch.tensor(sorted({*range(N_SINK), *range(*prompt.evidence), *range(n - WINDOW, n)}))


@torch.no_grad()
def answer_logits(model: Model, caches: Caches, prompt: Prompt, kept: list[Tensor]) -> Tensor:
    """Logits of the answer's tokens after the first, with only the kept prompt tokens of each layer."""
    c, ids = model.config, prompt.answer[:-1]
    n_new, start = len(ids), len(prompt.ids)
    x = model.embedding(torch.tensor([ids]))
    cos, sin = rope_tables(c, torch.arange(start, start + n_new)[None], torch.float32)
    for layer, (_, k_old, v_old), keep in zip(model.layers, caches, kept):
        q, k, v = layer.qkv(x, cos, sin)
        keys, values = torch.cat([k_old[:, keep], k[0]], 1), torch.cat([v_old[:, keep], v[0]], 1)
        scores = torch.einsum("kgtd,ksd->kgts", q[0].view(c.n_head_kv, c.group, n_new, -1), keys) * c.head_size**-0.5
        scores[..., -n_new:] += torch.full((n_new, n_new), -1e9).triu(1)
        out = torch.einsum("kgts,ksd->kgtd", scores.softmax(-1), values).flatten(0, 1)
        x = x + layer.o(out.transpose(0, 1).flatten(1)[None])
        x = x + layer.mlp(x)
    return F.linear(rms_norm(x, model.norm, c.eps), model.embedding.weight)[0]


def policies(model: Model, prompt: Prompt, caches: Caches, scores: Tensor, share: float) -> dict[str, list[Tensor]]:
    """Kept prompt tokens of each layer; every layer has the same budget."""
    n = len(prompt.ids)
    budget = max(round(share * n), WINDOW + 1)
    window = [attention(cache, range(n - WINDOW, n)).sum(1) for cache in caches]
    order = scores.argsort(1, descending=True)
    kept = {f"SRH top {k}": [select(w[o[:k]], budget) for w, o in zip(window, order)] for k in (1, 2, 4)}
    kept["SRH last 4"] = [select(w[o[-4:]], budget) for w, o in zip(window, order)]
    kept["all heads"] = [select(w, budget) for w in window]
    kept["StreamingLLM"] = [streaming(n, budget)] * len(caches)
    return kept


def eviction_table(model: Model, prompts: list[Prompt], scores: Tensor, shares: tuple[float, ...]) -> None:
    """Exact answers with the full cache and after eviction. The first token comes from the full prompt's logits."""
    hits: dict[str, list[bool]] = {}
    for p in prompts:
        logits, caches = read(model, p.ids)
        first = int(logits[-1].argmax()) == p.answer[0]
        n_layer = len(caches)
        runs = {"full": [torch.arange(len(p.ids))] * n_layer, "oracle": [oracle(p)] * n_layer}
        for share in shares:
            runs |= {f"{k} {share:.0%}": v for k, v in policies(model, p, caches, scores, share).items()}
        for name, kept in runs.items():
            out = answer_logits(model, caches, p, kept).argmax(-1).tolist()
            hits.setdefault(name, []).append(first and out == p.answer[1:])
    for name, values in hits.items():
        print(f"  {name:20s} {sum(values) / len(values):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("book", type=Path)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--n-token", type=int, default=1024)
    parser.add_argument("--n-distractor", type=int, default=4)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--scores", type=Path, help="JSON file for the scores [layer][head]")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model = load(a.checkpoint)
    encoder = data.Encoder(a.checkpoint.parent / "tokenizer.json")
    book = Book(encoder, a.book)
    kinds = list(data.KINDS)
    tasks = [Task(a.n_token, i % 11 / 10, a.n_distractor, kinds[i % len(kinds)], a.chat) for i in range(a.n)]
    prompts = [make_prompt(f"heads {i}", encoder, book, t) for i, t in enumerate(tasks)]
    scores = semantic_scores(model, prompts)
    print("semantic score, layer by head\n" + "\n".join(" ".join(f"{x:.3f}" for x in row) for row in scores.tolist()))
    if a.scores:
        a.scores.write_text(json.dumps([[round(x, 4) for x in row] for row in scores.tolist()]))
    masking_table(model, prompts, scores)
    print(f"eviction, {a.n_token} tokens, {a.n_distractor} distractors, n = {a.n}")
    eviction_table(model, prompts, scores, (0.03, 0.06, 0.12))


if __name__ == "__main__":
    main()
