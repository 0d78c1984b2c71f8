"""Texts on which llama.cpp's tokenizer and the one of the training must agree.

`python tools/models/random_texts.py DIR/tokenizer.json OUT.json` writes a digest of the training tokenizer's tokens of
each text: a test without that library compares llama.cpp with them.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import facts
from kinds import KINDS

_ALPHABETS = (
    "abcdefghij KLMNOP 0123456789 .,:;!?'\"()-\n\t",
    "abc ABC éüßøñ žščř Ελλ Жук 日本語 한국 ١٢٣ ½ € … “” —",
    " \n\r\t\u00a0.'sSdDtT1 ",
)


def random_texts(n: int = 1000) -> list[str]:
    """Half of them random characters, half sentences with digits, quotes and contractions."""
    r = random.Random(7)
    return [_characters(r) if i % 2 else _sentence(r) for i in range(n)]


def _characters(r: random.Random) -> str:
    alphabet = r.choice(_ALPHABETS)
    return "".join(r.choice(alphabet) for _ in range(r.randint(1, 80)))


def _sentence(r: random.Random) -> str:
    kind = r.choice(list(KINDS))
    fields = KINDS[kind].draw(r, facts.draw_lists(r))
    sentence = r.choice(KINDS[kind].sentences).format(**fields)
    after = r.choice(("", "\n\nQuestion: ", " 'It's,' I'd said, \"we'll see\"; they'RE ", "  (1,024.5 %)\r\n"))
    return sentence + after + r.choice(KINDS[kind].questions).format(**fields)


def digest(ids: Iterable[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:8]


def main(tokenizer: Path, out: Path) -> None:
    from text import FileEncoder

    encoder = FileEncoder(tokenizer).tokenizer
    out.write_text(json.dumps([digest(encoder.encode(t, add_special_tokens=False).ids) for t in random_texts()]) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
