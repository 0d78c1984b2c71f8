"""What a GGUF can do with the full cache, through llama.cpp, greedily: right only if every token of the answer is.

`python tools/models/measure.py NAME.gguf OUT.json --books BOOK...` needs the package with its libllama, not PyTorch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import chat
import numpy as np
from groups import GROUPS
from kinds import KINDS
from passages import ALL_KINDS
from prompts import HELD_QUESTIONS, SIMPLE, Book, Prompt, Task, make_prompt
from text import BOS, Encoder

from compresskv_edge import Llama

DEPTHS = tuple(i / 10 for i in range(11))


class LlamaEncoder(Encoder):
    def __init__(self, llm: Llama) -> None:
        super().__init__(lambda text: llm.tokenize(text.encode(), add_bos=False, special=False))


def open_model(path: Path, n_threads: int = 1, **kwargs: object) -> Llama:
    threads = {"n_threads": n_threads, "n_threads_batch": n_threads}
    return Llama(str(path), **{"n_ctx": 8192, "flash_attn": True, "verbose": False, **threads, **kwargs})


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
        results.append(is_right(llm, answer))
    return results


def is_right(llm: Llama, answer: list[int]) -> bool:
    """From the logits of the last token on; afterwards the true answer is in the cache."""
    right = True
    for token in answer:
        right = right and next_token(llm) == token
        llm.eval([token])
    return right


def count(llm: Llama, made: Iterable[Prompt]) -> list[dict[str, int]]:
    """Right answers to the first, second ... question, each with its number of prompts."""
    columns = list(zip(*(answers(llm, p) for p in made)))
    return [{"right": sum(column), "n": len(column)} for column in columns]


def needle_grid(
    llm: Llama, encoder: Encoder, books: list[Book], lengths: list[int], repeat: int, seed: str
) -> list[dict[str, object]]:
    """One needle among 0, 4 or 16 facts of its kind: cells of length by depth.

    Kinds go on from cell to cell: with a `repeat` that 2 and 3 do not divide each kind comes in all forms.
    """
    kinds = itertools.cycle(SIMPLE)
    cells: list[dict[str, object]] = []
    for n_token, depth in itertools.product(lengths, DEPTHS):
        tasks = [Task(n_token, depth, (0, 4, 16)[i % 3], next(kinds), chat=i % 2 == 1) for i in range(repeat)]
        name = f"{seed} grid {n_token} {depth}"
        made = [make_prompt(f"{name} {i}", encoder, books[i // 2 % len(books)], t) for i, t in enumerate(tasks)]
        cells.append({"n_token": n_token, "depth": depth, **count(llm, made)[0]})
        print(cells[-1], flush=True)
    return cells


def task_names(n_token: int) -> dict[str, list[Task]]:
    """By kind of fact, then what is not one question in the plain form."""
    tasks = {kind: [Task(n_token, 0.5, 4, kind)] for kind in (*ALL_KINDS, *GROUPS)}
    tasks["paraphrase"] = [Task(n_token, 0.5, 4, kind, paraphrase=True) for kind in HELD_QUESTIONS]
    for form in chat.FORMS:
        tasks[f"chat, {form}"] = [Task(n_token, 0.5, 4, kind, True, form) for kind in KINDS]
    tasks["chat, five questions"] = [Task(n_token, 0.5, 6, kind, True, n_question=5) for kind in SIMPLE]
    return tasks


def task_table(
    llm: Llama, encoder: Encoder, books: list[Book], n_token: int, n: int, seed: str
) -> dict[str, list[dict[str, int]]]:
    table = {}
    for name, variants in task_names(n_token).items():
        repeat = 3 * n if name.startswith(("chat", "para")) else n
        chosen = enumerate(itertools.islice(itertools.cycle(variants), repeat))
        made = (make_prompt(f"{seed} {name} {i}", encoder, books[i % len(books)], t) for i, t in chosen)
        table[name] = count(llm, made)
        print(name, table[name], flush=True)
    for name in GROUPS:
        tasks = (task_names(n_token)[name] * n)[:n]
        made = (make_prompt(f"{seed} {name} {i}", encoder, books[i % len(books)], t) for i, t in enumerate(tasks))
        right, n_fact = map(sum, zip(*(facts_told(llm, p) for p in made)))
        table[f"{name}, single facts"] = [{"right": right, "n": n_fact}]
    return table


def facts_told(llm: Llama, prompt: Prompt) -> tuple[int, int]:
    """Of an answer that tells several facts: how many a greedy answer tells rightly in any order, and of how many."""
    llm.reset()
    llm.eval(prompt.ids)
    told: list[int] = []
    while len(told) < 2 * len(prompt.answer) and not (told and b"." in llm.detokenize(told[-1:])):
        told.append(next_token(llm))
        llm.eval(told[-1:])
    found, wanted = (
        llm.detokenize(ids).decode(errors="replace").strip(" .\n").split(", ") for ids in (told, prompt.answer)
    )
    return sum(fact in found for fact in wanted), len(wanted)


def perplexity(llm: Llama, book: Book, n_token: int = 512, n_chunk: int = 16, skip: int = 200) -> dict[str, float]:
    """Of a book's sentences in their order, in chunks: by token, and in bits a byte."""
    chosen = list(zip(book.sentences, book.lines))[skip:]
    flat = list(itertools.islice(itertools.chain.from_iterable(s for s, _ in chosen), (n_token - 1) * n_chunk))
    n_byte = sum(len(llm.detokenize([t])) for t in flat)
    loss = 0.0
    for start in range(0, len(flat), n_token - 1):
        ids = [BOS, *flat[start : start + n_token - 1]]
        llm.reset()
        llm.eval(ids)
        scores = llm.scores[: len(ids)].astype(np.float64)
        log_z = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        loss += float((log_z[:-1] - scores[np.arange(len(ids) - 1), ids[1:]]).sum())
    return {"token": round(math.exp(loss / len(flat)), 1), "bits_a_byte": round(loss / math.log(2) / n_byte, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("json", type=Path, help="figures are added to those of the file")
    parser.add_argument("--books", type=Path, nargs="+", required=True, help="text files that were not trained on")
    parser.add_argument("--prose", type=Path, nargs="*", default=[], help="more text files, for perplexity")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument(
        "--repeat", type=int, default=11, help="prompts a cell of the needle table; no multiple of 2, 3"
    )
    parser.add_argument("--n", type=int, default=24, help="prompts a line of the task table")
    parser.add_argument("--n-token", type=int, default=1024, help="length of the prompts of the task table")
    parser.add_argument("--seed", default="card")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    llm = open_model(a.gguf, a.threads)
    encoder = LlamaEncoder(llm)
    books = [Book(encoder, path) for path in a.books]
    card = json.loads(a.json.read_text()) if a.json.exists() else {}
    if a.repeat:
        card["grid"] = needle_grid(llm, encoder, books, [int(x) for x in a.lengths.split(",")], a.repeat, a.seed)
    if a.n:
        card["tasks"] = task_table(llm, encoder, books, a.n_token, a.n, a.seed)
    llm.close()
    llm = open_model(a.gguf, a.threads, n_ctx=512, logits_all=True)
    encoder = LlamaEncoder(llm)
    card["perplexity"] = {p.stem: perplexity(llm, Book(encoder, p)) for p in (*a.books, *a.prose)}
    print(card["perplexity"])
    a.json.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
