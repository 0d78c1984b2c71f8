"""Prose and tokenizer from nothing: `python tools/models/prepare.py NAME DIR` writes prose, held.txt, tokenizer.json.

The prose: `sources.py`. The tokenizer is a byte-level BPE whose pre-tokenizer llama.cpp knows by name.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import chat
import facts
import sources
from groups import GROUPS
from held import holds_none
from kinds import KINDS
from specs import SPECS, Spec
from text import SPECIAL
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

_NO_END = "".join(rf"(?<!\b{x}\.)" for x in ("Mr", "Mrs", "Dr", "St", "Mme"))
_SENTENCE_END = re.compile(rf"(?:(?<=[.!?])|(?<=[.!?][\"'])){_NO_END}\s+(?=[\"']?[A-Z])")
_CODE = re.compile(r"[{}<>|\\=#@$%^~\[\]`]|\.\.|::|Question|Answer")
_PLAIN = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2014": "-", "_": "", "*": ""})
# As in llama.cpp (src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2).
_QWEN2 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def sentences(paragraph: str) -> Iterator[str]:
    """Plain English sentences of 5 to 50 words."""
    text = re.sub(r"\s+", " ", paragraph.translate(_PLAIN)).strip()
    for s in _SENTENCE_END.split(text):
        n_letter = sum(c.isalpha() or c == " " for c in s)
        if not (5 <= len(s.split()) <= 50 and s.isascii() and s[-1] in ".!?\"'"):
            continue
        if n_letter >= 0.9 * len(s) and not _CODE.search(s) and sum(c.islower() for c in s) > 0.6 * len(s):
            yield s


def write_prose(directory: Path, name: str) -> list[str]:
    """Sentences without held-out words, one a line; every twelfth run of 40 is held out and returned."""
    found = (s for p in sources.SOURCES[name](directory / "downloads") for s in sentences(p))
    lines = list(dict.fromkeys(s for s in found if holds_none(s)))
    runs = [lines[i : i + 40] for i in range(0, len(lines), 40)]
    text = [s for n, run in enumerate(runs) if n % 12 != 5 for s in run]
    (directory / "prose" / f"{name}.txt").write_text("\n".join(text) + "\n")
    return [s for run in runs[5::12] for s in run]


def write_tokenizer(spec: Spec, directory: Path) -> None:
    """Trained on the prose, and on generated facts with their questions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(spec.pre)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.config.vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(spec, directory), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    if name == "smollm":
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    if name == "qwen2":
        split = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ValueError(f"unknown pre-tokenizer {name!r}: smollm or qwen2")


def _tokenizer_texts(spec: Spec, directory: Path) -> Iterator[str]:
    r = random.Random(spec.seed)
    for name in spec.prose:
        lines = (directory / "prose" / f"{name}.txt").read_text().splitlines()
        yield from (" " + x for x in r.sample(lines, min(len(lines), 15000)))
    for _ in range(30000):
        kind = r.choice(list(KINDS))
        fields = KINDS[kind].draw(r, facts.draw_lists(r))
        yield " " + r.choice(KINDS[kind].sentences).format(**fields)
        yield " " + r.choice(KINDS[kind].questions).format(**fields)
    groups = [q.replace("{", "").replace("}", "") for g in GROUPS.values() for x in g.questions.values() for q in x]
    forms = [f.replace("{v}", "x") for f in chat.FORMS.values()]
    instructions = [x for i in chat.INSTRUCTIONS.values() for x in i]
    for text in (*chat.LEADS, *chat.TAILS, *instructions, *forms, *groups, *chat.CLAUSES):
        yield from [" " + text.strip()] * 50


def main(spec: Spec, directory: Path) -> None:
    (directory / "prose").mkdir(parents=True, exist_ok=True)
    held = [s for name in spec.prose for s in write_prose(directory, name)]
    (directory / "held.txt").write_text("\n".join(held) + "\n")
    write_tokenizer(spec, directory)


if __name__ == "__main__":
    main(SPECS[sys.argv[1]], Path(sys.argv[2]))
