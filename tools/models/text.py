"""Text to tokens: the cached tokenizer, filled templates with the places of their fields, sentences of prose."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from words import invented

PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, END = range(7)
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
Span = tuple[int, int]  # [first, last + 1) in tokens


class Encoder:
    """A tokenizer, cached: text is cut at spaces, where the byte-level BPE always cuts as well."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self.encode = functools.lru_cache(maxsize=1 << 17)(lambda text: tuple(encode(text)))

    def fill(self, template: str, fields: dict[str, str]) -> tuple[list[int], dict[str, Span]]:
        """Tokens of a filled template, and where each field stands."""
        ids: list[int] = []
        spans: dict[str, Span] = {}
        for part in re.findall(r" ?\{\w+\}|(?: ?[^{} ]+)+", template):
            name = part.strip(" {}") if "{" in part else ""
            start = len(ids)
            ids += self.encode(part.split("{")[0] + fields[name] if name else part)
            if name:
                spans[name] = (start, len(ids))
        return ids, spans


class FileEncoder(Encoder):
    """The training tokenizer; measurements use llama.cpp's instead."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(path))
        super().__init__(lambda text: self.tokenizer.encode(text, add_special_tokens=False).ids)


class Prose:
    """Sentences of text files, one a line, tokenised once; each file has its share of what is drawn."""

    def __init__(self, encoder: FileEncoder, shares: dict[Path, float]) -> None:
        texts = [path.read_text() for path in shares]
        self.shares = list(shares.values())
        self.n_vocab = encoder.tokenizer.get_vocab_size()
        tokens = (encoder.tokenizer.id_to_token(i).lstrip("\u0120") for i in range(len(SPECIAL), self.n_vocab))
        self.pieces = [t for t in tokens if t.isascii() and t.isalpha() and t.islower()]
        self.vocabulary = sorted({x for t in texts for x in re.findall(r"(?<= )[a-z]{4,10}(?=[ ,.])", t)})
        self.sources = [tokenise(encoder, text.splitlines()) for text in texts]

    def word(self, r: random.Random) -> str:
        """Any word: one of the prose, an invented one, or one glued from pieces that the tokenizer knows."""
        draw = r.random()
        if draw < 0.4:
            return r.choice(self.vocabulary)
        return invented(r) if draw < 0.6 else "".join(r.choice(self.pieces) for _ in range(r.randint(1, 3)))

    def noise(self, r: random.Random) -> list[int]:
        """Random tokens, or a sentence in which a third of them is random: keys must not match what they never saw."""
        if r.random() < 0.5:
            return [r.randrange(len(SPECIAL), self.n_vocab) for _ in range(r.randint(8, 30))]
        sentence = r.choice(self.sources[-1])
        return [r.randrange(len(SPECIAL), self.n_vocab) if r.random() < 0.33 else t for t in sentence]

    def stream(self, r: random.Random) -> Iterator[list[int]]:
        """Sentences for ever, in runs of neighbours."""
        while True:
            sentences = r.choices(self.sources, self.shares)[0]
            start = r.randrange(len(sentences))
            yield from sentences[start : start + r.randint(4, 20)]


def tokenise(encoder: FileEncoder, lines: list[str]) -> list[list[int]]:
    return [e.ids for e in encoder.tokenizer.encode_batch([" " + x for x in lines])]
