"""Whether llama.cpp and PyTorch agree: `python tools/models/agree.py DIR/last.pt DIR/demo-f32.gguf BOOK`.

Prints the largest difference of two logits, relative to the standard deviation of all; needs PyTorch and the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import data
import numpy as np
import torch
from export import load
from measure import open_model
from prompts import Book, Task, make_prompt


def main(checkpoint: Path, gguf: Path, book_path: Path) -> None:
    model = load(checkpoint)
    encoder = data.Encoder(checkpoint.parent / "tokenizer.json")
    book = Book(encoder, book_path)
    llm = open_model(gguf, 1, logits_all=True, n_ctx=1024, type_k=0, type_v=0, flash_attn=False)  # 0: f32
    for n, kind in enumerate(data.KINDS):
        ids = make_prompt(f"agree {n}", encoder, book, Task(900, 0.5, 4, kind, chat=n % 2 == 1)).ids
        llm.reset()
        llm.eval(ids)
        ours = llm.scores[: len(ids)]
        with torch.no_grad():
            theirs = model(torch.tensor([ids]), torch.arange(len(ids))[None])[0][0].numpy()
        same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
        difference = np.abs(ours - theirs).max() / theirs.std()
        print(f"{kind}: {difference:.1e} relative, same best token {same:.4f}", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
