"""Blocks leave the stream when they are complete, and nothing is lost or changed."""

from __future__ import annotations

import io
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from compresskv_edge.apps.chat.markdown import MarkdownStream, PlainTagMarkdown

TEXT = """# Title

A paragraph
over two lines.

1. one
2. two

   still two

```python
x = 1

y = 2
```

| a | b |
|---|---|
| 1 | 2 |

The end.
"""


def feed(text: str, seed: int) -> list[str]:
    rng, stream, blocks, at = random.Random(seed), MarkdownStream(), [], 0
    while at < len(text):
        n = rng.randint(1, 9)
        blocks.append(stream.feed(text[at : at + n]))
        at += n
    return [block for block in [*blocks, stream.end()] if block]


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_never_cut(seed: int) -> None:
    blocks = feed(TEXT, seed)
    assert "".join(blocks) == TEXT
    assert len(blocks) >= 4
    for block in blocks:
        assert block.count("```") in (0, 2)
        assert ("| a | b |" in block) == ("| 1 | 2 |" in block)
        assert ("1. one" in block) == ("still two" in block)


@given(st.text("#*`|>- \nab1.", max_size=60), st.integers(0, 9))
def test_nothing_is_lost(text: str, seed: int) -> None:
    assert "".join(feed(text, seed)) == text


def test_tags_are_shown() -> None:
    out = io.StringIO()
    Console(file=out, width=60).print(PlainTagMarkdown("<think>\nWhy?\n</think>\n\n**Because** x<y."))
    shown = out.getvalue().split()
    assert shown == ["<think>", "Why?", "</think>", "Because", "x<y."]


@pytest.mark.parametrize("answer", ["42.", "7)", "-", "# ", "+", "**bold**", "1. one", ""])
def test_an_answer_that_looks_like_an_empty_list_is_shown(answer: str) -> None:
    out = io.StringIO()
    Console(file=out, width=60).print(PlainTagMarkdown(answer))
    letters = re.sub(r"\W", "", answer)
    assert out.getvalue().strip() if answer.strip() else True
    assert letters in re.sub(r"\W", "", out.getvalue())
