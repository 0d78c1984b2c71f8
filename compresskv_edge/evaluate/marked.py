"""Where passages of a document lie among the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from ..calibration.prompts import find_span
from ..errors import EvaluationError


def positions(pieces: Sequence[bytes], passages: Sequence[str]) -> list[int]:
    """Ascending positions of all tokens that hold a part of a passage. pieces: bytes of each token of the prompt.

    Raises EvaluationError for a passage that is not there.
    """
    found: set[int] = set()
    for passage in passages:
        span = find_span(pieces, passage)
        if span is None:
            raise EvaluationError(
                f"the marked passage {passage!r:.60} is not in the prompt: mark it as it stands there"
            )
        found.update(range(*span))
    return sorted(found)
