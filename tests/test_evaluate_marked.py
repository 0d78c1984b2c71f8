"""Passages are found among the tokens of a prompt."""

from __future__ import annotations

import pytest

from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate.marked import positions

PIECES = [b"<s>", b"One ", b"two", b". Thr", b"ee four", b". One ", b"two"]


def test_tokens_that_hold_a_part_of_a_passage() -> None:
    assert positions(PIECES, ["Three"]) == [3, 4]
    assert positions(PIECES, ["Three four.", "One two"]) == [1, 2, 3, 4, 5]
    assert positions(PIECES, []) == []


def test_a_passage_that_is_not_there() -> None:
    with pytest.raises(EvaluationError, match="'five' is not in the prompt"):
        positions(PIECES, ["five"])
