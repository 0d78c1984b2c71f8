"""What a GGUF can do with the full cache, through llama.cpp: `python tools/models/measure.py NAME.gguf TOKENIZER BOOK`.

Needs the package with its libllama, not PyTorch. Answers are greedy and right only if every token is.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Iterable
from pathlib import Path

import data
import numpy as np
from prompts import HELD_QUESTIONS, Book, Prompt, Task, make_prompt

from compresskv_edge import Llama

DEPTHS = tuple(i / 10 for i in range(11))


def open_model(path: Path, n_threads: int, **kwargs: object) -> Llama:
    threads = {"n_threads": n_threads, "n_threads_batch": n_threads}
    return Llama(str(path), **{"n_ctx": 4608, "flash_attn": True, "verbose": False, **threads, **kwargs})


def next_token(llm: Llama) -> int:
    from llama_cpp import llama_get_logits_ith  # after compresskv_edge, which says where libllama is

    pointer = llama_get_logits_ith(llm.ctx, -1)
    return int(np.ctypeslib.as_array(pointer, shape=(llm.n_vocab(),)).argmax())


def answers(llm: Llama, prompt: Prompt) -> list[bool]:
    """Whether the answer to each question is right; a later question follows the true answer to the one before."""
    llm.reset()
    results = []
    for ids, answer in ((prompt.ids, prompt.answer), *prompt.more):
        llm.eval(ids)
        results.append(_is_right(llm, answer))
    return results


def _is_right(llm: Llama, answer: list[int]) -> bool:
    right = True
    for token in answer:
        right = right and next_token(llm) == token
        llm.eval([token])
    return right


def accuracy(llm: Llama, prompts: Iterable[Prompt]) -> tuple[list[float], int]:
    """Share of right answers to the first, second ... question, and the number of prompts."""
    rows = [answers(llm, p) for p in prompts]
    return [sum(column) / len(rows) for column in zip(*rows)], len(rows)


def needle_table(llm: Llama, encoder: data.Encoder, book: Book, lengths: list[int], n_repeat: int) -> None:
    kinds = itertools.cycle(data.KINDS)
    for n_token, n_distractor in itertools.product(lengths, (0, 4, 16)):
        by_depth = []
        for depth in DEPTHS:
            tasks = [Task(n_token, depth, n_distractor, next(kinds), chat=i % 2 == 1) for i in range(n_repeat)]
            made = [make_prompt(f"{n_token} {depth} {n_distractor} {i}", encoder, book, t) for i, t in enumerate(tasks)]
            by_depth.append(accuracy(llm, made)[0][0])
        cells = " ".join(f"{x:.2f}" for x in by_depth)
        print(f"{n_token} tokens, {n_distractor} distractors: {np.mean(by_depth):.3f}, by depth {cells}", flush=True)


def task_table(llm: Llama, encoder: data.Encoder, book: Book, n_token: int, n: int) -> None:
    """By kind of fact, then what is not one question in the plain form."""
    tasks = {f"kind {kind}": [Task(n_token, 0.5, 4, kind)] for kind in data.KINDS}
    tasks["held-out questions"] = [Task(n_token, 0.5, 4, kind, paraphrase=True) for kind in HELD_QUESTIONS]
    tasks |= {f"form {form}": [Task(n_token, 0.5, 4, kind, True, form) for kind in data.KINDS] for form in data.FORMS}
    tasks["three questions"] = [Task(n_token, 0.5, 4, kind, True, n_question=3) for kind in data.KINDS]
    for name, variants in tasks.items():
        chosen = itertools.islice(itertools.cycle(variants), n)
        shares, _ = accuracy(llm, (make_prompt(f"{name} {i}", encoder, book, t) for i, t in enumerate(chosen)))
        print(f"{name}: " + " ".join(f"{x:.3f}" for x in shares), flush=True)


def perplexity(
    llm: Llama, encoder: data.Encoder, sentences: list[list[int]], n_token: int = 512, n_chunk: int = 12
) -> float:
    """Of sentences in their order, in chunks."""
    flat = list(itertools.islice(itertools.chain.from_iterable(sentences), n_token * n_chunk))
    losses: list[float] = []
    for start in range(0, len(flat) - n_token + 1, n_token):
        ids = [data.BOS, *flat[start : start + n_token - 1]]
        llm.reset()
        llm.eval(ids)
        scores = llm.scores[: len(ids)].astype(np.float64)
        log_z = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        losses += (log_z[:-1] - scores[np.arange(len(ids) - 1), ids[1:]]).tolist()
    return math.exp(sum(losses) / len(losses))


def tokenisation_differences(llm: Llama, encoder: data.Encoder, texts: Iterable[str]) -> int:
    own = encoder.tokenizer
    return sum(own.encode(t).ids != llm.tokenize(t.encode(), add_bos=False, special=False) for t in texts)


def random_texts(n: int) -> list[str]:
    r = random.Random(7)
    alphabet = "abcdefghij KLMNOP 0123456789 .,:;!?'\"()-\n\t éüß日本"
    return ["".join(r.choice(alphabet) for _ in range(r.randint(1, 80))) for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("book", type=Path)
    parser.add_argument("--held", type=Path, help="held-out prose, for perplexity")
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--repeat", type=int, default=4, help="prompts a cell of the needle table")
    parser.add_argument("--n", type=int, default=24, help="prompts a line of the task table")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    encoder = data.Encoder(a.tokenizer)
    book = Book(encoder, a.book)
    llm = open_model(a.gguf, a.threads)
    print("texts tokenised differently:", tokenisation_differences(llm, encoder, random_texts(1000)))
    if a.lengths:
        needle_table(llm, encoder, book, [int(x) for x in a.lengths.split(",")], a.repeat)
    if a.n:
        task_table(llm, encoder, book, 1024, a.n)
    llm.close()
    llm = open_model(a.gguf, a.threads, n_ctx=512, logits_all=True)
    held = [data.Prose(encoder, a.held)] if a.held else []
    print("perplexity:", [round(perplexity(llm, encoder, p.sentences), 1) for p in (book, *held)])


if __name__ == "__main__":
    main()
