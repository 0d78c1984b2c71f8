"""Was the needle found? ROUGE-1 recall (Lin 2004, section 2): which of the expected words were said."""

from __future__ import annotations

import re

# a prompt counts if more of its answer than this was said; section 3.2 of arXiv:2508.02401
MIN_RECALL = 0.5

# words; scripts that put no spaces between words count by character
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")


def recall(answer: str, expected: str) -> float:
    """Share of the expected answer's words that occur in the answer, 0 to 1; case and punctuation do not count."""
    said, wanted = (set(_WORD.findall(text.lower())) for text in (answer, expected))
    return len(said & wanted) / len(wanted) if wanted else 0.0
