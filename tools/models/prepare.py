"""Prose and tokenizer from nothing: `python tools/models/prepare.py DIR` writes train.txt, held.txt and tokenizer.json.

The prose is what every CPython carries (PSF licence): `pydoc_data.topics` and the docstrings of the standard library,
one sentence a line. The tokenizer is a byte-level BPE with single digits, llama.cpp's pre-tokenizer "smollm".
"""

from __future__ import annotations

import ast
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 3072
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_CODE = re.compile(r"[{}<>|\\=_#@$%^~\[\]*`]|\.\.|::|>>>|Question|Answer")


def paragraphs() -> Iterator[str]:
    """Docstrings and the strings of pydoc's topics, cut at empty lines."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "site-packages", "dist-packages"}
    files = [f for f in sorted(root.rglob("*.py")) if not skip & set(f.parts)]
    for file in files:
        try:
            tree = ast.parse(file.read_text(errors="ignore"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)):
                yield from (ast.get_docstring(node) or "").split("\n\n")
            elif file.name == "topics.py" and isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from node.value.split("\n\n")


def sentences(paragraph: str) -> Iterator[str]:
    """Plain English sentences of 5 to 40 words."""
    text = re.sub(r'"{1,2}(\S[^"]*?)"{1,2}', r"\1", re.sub(r"\s+", " ", paragraph)).strip()
    for s in _SENTENCE_END.split(text):
        n_letter = sum(c.isalpha() or c == " " for c in s)
        if not (5 <= len(s.split()) <= 40 and s.isascii() and s[0].isupper() and s[-1] in ".!?"):
            continue
        if n_letter >= 0.92 * len(s) and not _CODE.search(s) and sum(c.islower() for c in s) > 0.6 * len(s):
            yield s


def write_prose(directory: Path) -> None:
    """Every twelfth run of 40 sentences is held out."""
    lines = list(dict.fromkeys(s for p in paragraphs() for s in sentences(p)))
    runs = [lines[i : i + 40] for i in range(0, len(lines), 40)]
    for name, chosen in (("held", [5]), ("train", [i for i in range(12) if i != 5])):
        text = [s for n, run in enumerate(runs) if n % 12 in chosen for s in run]
        (directory / f"{name}.txt").write_text("\n".join(text) + "\n")


def write_tokenizer(directory: Path) -> None:
    """Trained on the prose and 40000 generated facts with their questions."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(data.SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(directory), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))


def _tokenizer_texts(directory: Path) -> Iterator[str]:
    yield from (" " + x for x in (directory / "train.txt").read_text().splitlines())
    r = random.Random(0)
    for _ in range(40000):
        kind = r.choice(list(data.KINDS))
        fields = data.KINDS[kind].draw(r, data.draw_lists(r))
        yield " " + r.choice(data.KINDS[kind].sentences).format(**fields)
        yield " " + r.choice(data.KINDS[kind].questions).format(**fields)
    for text in (*data.LEADS, *data.TAILS, *(x for i in data.INSTRUCTIONS.values() for x in i), *data.CLAUSES):
        yield from [" " + text] * 50


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_prose(directory)
    write_tokenizer(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
