"""Whether llama.cpp and PyTorch agree: `python tools/models/agree.py DIR/last.pt DIR/NAME-f32.gguf BOOK`.

Prints the largest difference of two logits, relative to the standard deviation of all; needs PyTorch and the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from export import load
from measure import LlamaEncoder, open_model
from prompts import SIMPLE, Book, Task, make_prompt


def differences(checkpoint: Path, gguf: Path, book_path: Path, n: int, n_token: int = 900) -> Iterator[float]:
    _, model = load(checkpoint)
    llm = open_model(gguf, logits_all=True, n_ctx=n_token + 128, type_k=0, type_v=0, flash_attn=False)  # 0: f32
    encoder = LlamaEncoder(llm)
    book = Book(encoder, book_path)
    for i in range(n):
        task = Task(n_token, 0.5, 4, SIMPLE[i % len(SIMPLE)], chat=i % 2 == 1)
        ids = make_prompt(f"agree {i}", encoder, book, task).ids
        llm.reset()
        llm.eval(ids)
        with torch.no_grad():
            theirs = model(torch.tensor([ids]), torch.arange(len(ids))[None])[0][0].numpy()
        yield float(np.abs(llm.scores[: len(ids)] - theirs).max() / theirs.std())


def main() -> None:
    for difference in differences(*map(Path, sys.argv[1:4]), n=12):
        print(f"{difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
