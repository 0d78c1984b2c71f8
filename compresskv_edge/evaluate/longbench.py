"""LongBench (arXiv:2308.14508) and any JSONL in its format: context, input, answers, perhaps all_classes and _id.

Beside LongBench's sets: altqa (numbers, BAMBOO), nq (Natural Questions) and rows with `evidence`, the passages of the
context that answer. Files may be gzipped. Each set keeps LongBench's metric and answer length; sets of other names are
questions scored by F1. The prompts are ours unless a `dataset2prompt.json` of LongBench lies in the folder: then they
are its own, question and all in one text. As in LongBench, a prompt that is too long loses its middle, but no evidence.

altqa changes numbers of encyclopedia pages, so memory cannot answer: what holds the number counts as evidence, and the
pages of several questions share a prompt (fitting.packed).
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..errors import EvaluationError
from .fitting import around, fitted, packed
from .sample import Fit, Sample, SuitePlan, Turn, generator


@dataclass(frozen=True)
class Kind:
    """How a set is asked and scored. hint: how to answer. asks: what comes after the document.

    raw: text to go on with, no chat template, only the first line counts. pages: questions share a prompt of several
    documents, and what holds an answer is evidence.
    """

    metric: str
    max_tokens: int
    hint: str = ""
    asks: str = "{input}"
    raw: bool = False
    pages: bool = False


_QA = "Answer the question from the text. Give only the answer."
_CHINESE_QA = "阅读以下文字并用中文简短回答问题,只给出答案。"
_MEETING = "Answer the question about the meeting in a few sentences."
_COUNT = "Some of the paragraphs are repeated. How many different ones are there? Answer with the number."
_PARAGRAPH = 'Which of the paragraphs is summarised below? Answer as in "Paragraph 1".'
_CHINESE_PARAGRAPH = '以下摘要来自哪一段?按"段落1"的格式回答。'

KINDS: dict[str, Kind] = {
    "altqa": Kind("any", 24, _QA, pages=True),
    **dict.fromkeys(("narrativeqa", "qasper"), Kind("f1", 128, _QA)),
    "multifieldqa_en": Kind("f1", 64, _QA),
    "multifieldqa_zh": Kind("f1_chinese", 64, _CHINESE_QA),
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique", "nq"), Kind("f1", 32, _QA)),
    "dureader": Kind("rouge_l_chinese", 128, _CHINESE_QA),
    **dict.fromkeys(("gov_report", "multi_news"), Kind("rouge_l", 512, asks="Summarise the text.")),
    "qmsum": Kind("rouge_l", 512, _MEETING),
    "vcsum": Kind("rouge_l_chinese", 512, asks="阅读以上会议记录并写一段总结。"),
    **dict.fromkeys(("trec", "lsht"), Kind("classification", 64, raw=True)),
    "triviaqa": Kind("f1", 32, raw=True),
    "samsum": Kind("rouge_l", 128, raw=True),
    "passage_count": Kind("counting", 32, asks=_COUNT),
    "passage_retrieval_en": Kind("retrieval", 32, _PARAGRAPH),
    "passage_retrieval_zh": Kind("retrieval", 32, _CHINESE_PARAGRAPH),
    **dict.fromkeys(("lcc", "repobench-p"), Kind("edit_similarity", 64, raw=True)),
}
OTHER = Kind("f1", 64, _QA)


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """The rows of the folder (or file) plan.data, max(plan.contexts) tokens each at most. plan.tasks: names of sets.

    plan.rows: "even" and "odd" take every other row of each file, counted from 0. Raises EvaluationError.
    """
    assert plan.data is not None
    prompts, limit = _prompts(plan.data), max(plan.contexts)
    by_set: dict[str, dict[str, Sample]] = {}
    for file, index, row in _rows(plan.data):
        name = _set_name(file, row)
        if (plan.tasks and name not in plan.tasks) or not _wanted(plan.rows, index):
            continue
        sample = _sample(plan, name, f"{name}/{row.get('_id', index)}", row, prompts.get(name), file, index)
        if sample.name in by_set.setdefault(name, {}):
            raise EvaluationError(f"{file.name!r} holds the _id {row['_id']!r} twice: remove one of the rows")
        by_set[name][sample.name] = sample
    if not by_set:
        raise EvaluationError(f"no rows of {', '.join(plan.tasks) or 'any set'} in {str(plan.data)!r}: give *.jsonl")
    found = []
    for name, samples in by_set.items():
        if KINDS.get(name, OTHER).pages and name not in prompts:
            found += packed(fit, generator(plan, name, limit), list(samples.values()), limit)
        else:
            found += fitted(fit, list(samples.values()), limit)
    if not found:
        raise EvaluationError(f"no row's evidence fits {limit} tokens: raise --contexts")
    return found


def _wanted(rows: str, index: int) -> bool:
    return rows == "all" or (index - 1) % 2 == (rows == "odd")


def _set_name(file: Path, row: Mapping[str, Any]) -> str:
    stem = file.name.split(".jsonl")[0]
    return str(row.get("dataset") or stem).removesuffix("_e")  # LongBench-E: the same sets, other lengths


def _rows(data: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """(file, number of the line from 1 on, row)."""
    files = sorted([*data.glob("*.jsonl"), *data.glob("*.jsonl.gz")]) if data.is_dir() else [data]
    for file in files:
        for index, line in enumerate(_read(file).splitlines(), 1):
            if line.strip():
                yield file, index, _row(file, index, line)


def _row(file: Path, index: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"line {index} of {file.name!r} is not JSON ({error})") from error
    answers = row.get("answers") if isinstance(row, dict) else None
    if not isinstance(answers, list) or not answers or not isinstance(row.get("context"), str):
        raise EvaluationError(
            f"line {index} of {file.name!r} lacks a text `context` or a list `answers`: see LongBench"
        )
    evidence = row.get("evidence", [])
    if not isinstance(evidence, list) or not all(isinstance(passage, str) for passage in evidence):
        raise EvaluationError(f"line {index} of {file.name!r} has an `evidence` that is no list of texts: correct it")
    return dict(row)


def _prompts(data: Path) -> Mapping[str, str]:
    file = data / "dataset2prompt.json" if data.is_dir() else data.parent / "dataset2prompt.json"
    if not file.is_file():
        return {}
    prompts = json.loads(_read(file))
    if not isinstance(prompts, dict):
        raise EvaluationError(f"{file.name!r} is not an object of prompts by set: take LongBench's own")
    return prompts


def _sample(
    plan: SuitePlan, name: str, key: str, row: dict[str, Any], prompt: Optional[str], file: Path, index: int
) -> Sample:
    kind = KINDS.get(name, OTHER)
    context, asked, answers = row["context"], str(row.get("input", "")), tuple(map(str, row["answers"]))
    turn = Turn(
        question="",
        answers=answers,
        metric=kind.metric,
        task=name,
        max_tokens=min(kind.max_tokens, plan.answer_tokens or kind.max_tokens),
        stop=("\n",) if kind.raw and kind.metric != "edit_similarity" else (),
        classes=tuple(row.get("all_classes") or ()),
        marked=_evidence(kind, row),
    )
    if prompt is None and kind.raw:
        prompt = "{context}{input}" if kind.metric == "edit_similarity" else "{context}\n{input}"
    if prompt is not None:
        text = _filled(prompt, context, asked, name, file, index)
        return Sample(f"qa/{key}", text, (turn,), raw=kind.raw, split={"set": name})
    turn = replace(turn, question=kind.asks.format(input=asked).strip() or asked)
    return Sample(f"qa/{key}", context, (turn,), hint=kind.hint, split={"set": name})


def _evidence(kind: Kind, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What the row marks, or for numbers in pages what holds the number."""
    marked = tuple(passage for passage in row.get("evidence", ()) if passage.strip())
    if marked or not kind.pages:
        return marked
    found = [re.finditer(rf"(?<!\w){re.escape(str(answer))}(?!\w)", row["context"]) for answer in row["answers"]]
    return around(row["context"], (match.span() for matches in found for match in matches))


def _filled(prompt: str, context: str, asked: str, name: str, file: Path, index: int) -> str:
    try:
        return prompt.format(context=context, input=asked)
    except (KeyError, IndexError, ValueError) as error:
        raise EvaluationError(f"the prompt of {name!r} has a field that line {index} of {file.name!r} lacks") from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or ("it is damaged" if path.suffix == ".gz" else "it is not UTF-8")
        raise EvaluationError(f"cannot read {str(path)!r}: {reason}") from error
