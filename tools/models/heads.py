"""Semantic retrieval scores of a checkpoint's heads (PyTorch): `python tools/models/heads.py DIR/last.pt OUT BOOK...`

OUT: a JSON list [layer][head]. The score is the attention on the sentence that answers, mean over the steps that
produce a token of it, over the prompts that are answered right (section 3.1 of arXiv:2508.02401).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from export import load
from model import Model
from prompts import SIMPLE, Book, Prompt, Task, make_prompt
from text import FileEncoder
from torch import Tensor


@torch.no_grad()
def read(model: Model, ids: list[int]) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Logits (token, vocab) and queries, keys, values (head, token, channel) of each layer."""
    logits, caches = model(torch.tensor([ids]), torch.arange(len(ids))[None])
    return logits[0], [(q[0], k[0], v[0]) for q, k, v in caches]


def attention(cache: tuple[Tensor, Tensor, Tensor], queries: list[int]) -> Tensor:
    """(head, query, token), causal."""
    q, k, _ = cache
    q = q[:, queries].view(k.shape[0], -1, len(queries), q.shape[-1])
    scores = torch.einsum("kgtd,ksd->kgts", q, k).flatten(0, 1) * q.shape[-1] ** -0.5
    later = torch.arange(k.shape[1]) > torch.tensor(queries)[:, None]
    return scores.masked_fill(later, -1e9).softmax(-1)


def semantic_scores(model: Model, prompts: list[Prompt]) -> tuple[Tensor, int]:
    """(layer, head), and the number of prompts that count."""
    total, n_counted = torch.zeros(model.config.n_layer, model.config.n_head), 0
    for p in prompts:
        logits, caches = read(model, p.ids + p.answer)
        if logits[len(p.ids) - 1 : -1].argmax(-1).tolist() != p.answer:
            continue
        ((a, b),) = p.evidence
        steps = [len(p.ids) - 1 + i for i, t in enumerate(p.answer) if t in p.ids[a:b]]
        for layer, cache in enumerate(caches):
            total[layer] += attention(cache, steps)[..., a:b].sum(-1).mean(1)
        n_counted += 1
    return total / max(1, n_counted), n_counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("books", type=Path, nargs="+")
    parser.add_argument("--n", type=int, default=36)
    parser.add_argument("--n-token", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    _, model = load(a.checkpoint)
    encoder = FileEncoder(a.checkpoint.parent / "tokenizer.json")
    books = [Book(encoder, path) for path in a.books]
    tasks = [Task(a.n_token, i % 11 / 10, 4, SIMPLE[i % len(SIMPLE)], i % 2 == 1) for i in range(a.n)]
    prompts = [make_prompt(f"heads {i}", encoder, books[i % len(books)], t) for i, t in enumerate(tasks)]
    scores, n_counted = semantic_scores(model, prompts)
    print(f"{n_counted} of {a.n} prompts answered right")
    print("\n".join(" ".join(f"{x:.3f}" for x in row) for row in scores.tolist()))
    a.out.write_text(json.dumps([[round(x, 4) for x in row] for row in scores.tolist()]) + "\n")


if __name__ == "__main__":
    main()
