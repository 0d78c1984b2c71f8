"""Was the needle found? ROUGE-1 recall, by the `rouge` package."""

from __future__ import annotations

import functools
import re
from typing import Any

# a prompt counts if more of its answer than this was said; section 3.2 of arXiv:2508.02401
MIN_RECALL = 0.5

# words; scripts that put no spaces between words count by character
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")


def recall(answer: str, expected: str) -> float:
    """Share of the expected answer's words that occur in the answer, 0 to 1; case and punctuation do not count."""
    said, wanted = (" ".join(_WORD.findall(text.lower())) for text in (answer, expected))
    if not said or not wanted:
        return 0.0
    return float(_rouge().get_scores(said, wanted)[0]["rouge-1"]["r"])


@functools.lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge import Rouge

    return Rouge(metrics=["rouge-1"], stats=["r"])
