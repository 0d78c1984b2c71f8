"""How answers are scored: LongBench's metrics (arXiv:2308.14508) and RULER's string match (arXiv:2404.06654).

All take the answer and a turn and return a score from 0 to 1. Where LongBench uses a library, so do we:
`rapidfuzz` for its `fuzzywuzzy` (the same ratio), `jieba` for its Chinese sets; for its `rouge` see rouge.py.
"""

from __future__ import annotations

import importlib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Callable

from ..errors import EvaluationError
from . import rouge
from .sample import Turn

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def recall(answer: str, turn: Turn) -> float:
    """Share of the expected strings that the answer holds as whole words, in any case."""
    text = _plain(answer)
    found = [re.search(rf"(?<!\w){re.escape(_plain(expected))}(?!\w)", text) for expected in turn.answers]
    return sum(match is not None for match in found) / len(found)


def any_of(answer: str, turn: Turn) -> float:
    """1 if the answer holds one of the expected strings."""
    return float(recall(answer, turn) > 0.0)


def f1(answer: str, turn: Turn) -> float:
    """Best overlap of words with an expected answer, articles and punctuation aside: LongBench's qa_f1_score."""
    return max(_overlap(_words(answer), _words(expected)) for expected in turn.answers)


def f1_chinese(answer: str, turn: Turn) -> float:
    """As f1 on the words that jieba finds: LongBench's qa_f1_zh_score."""
    return max(_overlap(_chinese(answer), _chinese(expected)) for expected in turn.answers)


def rouge_l(answer: str, turn: Turn) -> float:
    """Best ROUGE-L F score."""
    return max(rouge.rouge_l(answer, expected) for expected in turn.answers)


def rouge_l_chinese(answer: str, turn: Turn) -> float:
    """As rouge_l on the words that jieba finds."""
    pairs = [(" ".join(_jieba(answer)), " ".join(_jieba(expected))) for expected in turn.answers]
    return max(rouge.rouge_l(*pair) for pair in pairs)


def classification(answer: str, turn: Turn) -> float:
    """1 / number of classes named, if the right one is among them: LongBench's classification_score."""
    return max(_class_score(answer, expected, turn.classes) for expected in turn.answers)


def retrieval(answer: str, turn: Turn) -> float:
    """Share of the numbers in the answer that are the number of the paragraph asked for."""
    wanted = re.findall(r"\d+", turn.answers[0])
    numbers = re.findall(r"\d+", answer)
    return sum(number == wanted[0] for number in numbers) / len(numbers) if numbers and wanted else 0.0


def counting(answer: str, turn: Turn) -> float:
    """Share of the numbers in the answer that are the count asked for."""
    numbers = re.findall(r"\d+", answer)
    return sum(number == turn.answers[0] for number in numbers) / len(numbers) if numbers else 0.0


def edit_similarity(answer: str, turn: Turn) -> float:
    """Similarity of the first line of code to the expected one: LongBench's code_sim_score."""
    fuzz = _library("rapidfuzz.fuzz", "rapidfuzz")
    lines = answer.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return max(float(fuzz.ratio(code, expected)) / 100 for expected in turn.answers)


METRICS: dict[str, Callable[[str, Turn], float]] = {
    "recall": recall,
    "any": any_of,
    "f1": f1,
    "f1_chinese": f1_chinese,
    "rouge_l": rouge_l,
    "rouge_l_chinese": rouge_l_chinese,
    "classification": classification,
    "retrieval": retrieval,
    "counting": counting,
    "edit_similarity": edit_similarity,
}


def score(answer: str, turn: Turn) -> float:
    """The turn's metric: 0 to 1. Raises EvaluationError if the library that it needs is missing."""
    return METRICS[turn.metric](answer.strip(), turn)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def _overlap(answer: Sequence[str], expected: Sequence[str]) -> float:
    n_common = sum((Counter(answer) & Counter(expected)).values())
    return 2 * n_common / (len(answer) + len(expected)) if n_common else 0.0


def _class_score(answer: str, expected: str, classes: Sequence[str]) -> float:
    named = [name for name in classes if name in answer]
    named = [name for name in named if not (name in expected and name != expected)]
    return 1 / len(named) if expected in named else 0.0


def _chinese(text: str) -> list[str]:
    words = ("".join(c for c in word.lower() if unicodedata.category(c)[0] not in "PSZC") for word in _jieba(text))
    return [word for word in words if word]


def _jieba(text: str) -> list[str]:
    return list(_library("jieba", "jieba").cut(text, cut_all=False))


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EvaluationError(
            f"this metric needs {package}, which is not installed: pip install 'compresskv-edge[eval]'"
        ) from error
