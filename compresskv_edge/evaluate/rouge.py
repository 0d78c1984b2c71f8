"""ROUGE-L, the F score over the longest common subsequences of sentences (Lin 2004, section 3), as LongBench's library
`rouge` counts it: words as sets, the best subsequence of every pair of sentences, united. A test compares the two."""

from __future__ import annotations

from collections.abc import Sequence

_TINY = 1e-8  # added to the denominator there


def rouge_l(answer: str, expected: str) -> float:
    """0 to 1; 0 for an empty text. Sentences end with full stops, words with white space; case counts."""
    said, wanted = _sentences(answer), _sentences(expected)
    if not said or not wanted:
        return 0.0
    common = {word for sentence in wanted for other in said for word in _common(sentence, other)}
    recall, precision = (len(common) / len({word for words in text for word in words}) for text in (wanted, said))
    return 2 * precision * recall / (precision + recall + _TINY)


def _sentences(text: str) -> list[list[str]]:
    """White space between two full stops is a sentence of one empty word there."""
    return [part.split() or [""] for part in text.split(".") if part]


def _common(wanted: Sequence[str], said: Sequence[str]) -> list[str]:
    """A longest common subsequence, from its end; of several the one that goes furthest back in `said` first."""
    lengths = _lengths(wanted, said)
    i, j, found = len(wanted), len(said), []
    while i and j:
        if wanted[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            found.append(wanted[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def _lengths(one: Sequence[str], other: Sequence[str]) -> list[list[int]]:
    """[i][j]: length of the longest common subsequence of the first i and the first j words."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        row = [0]
        for j, theirs in enumerate(other):
            row.append(table[-1][j] + 1 if word == theirs else max(table[-1][j + 1], row[j]))
        table.append(row)
    return table
