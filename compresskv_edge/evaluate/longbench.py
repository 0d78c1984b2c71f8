"""LongBench (arXiv:2308.14508) and any JSONL in its format: context, input, answers, perhaps all_classes and _id.

Each set keeps LongBench's metric and answer length; sets of other names are questions scored by F1. The prompts are
ours unless a `dataset2prompt.json` of LongBench lies in the folder: then they are its own. As in LongBench, a prompt
that is too long loses its middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from .sample import Fit, Sample, SuitePlan, Turn


@dataclass(frozen=True)
class Kind:
    """How a set is asked and scored. raw: text to go on with, no chat template, only the first line counts."""

    metric: str
    max_tokens: int
    prompt: str
    raw: bool = False


_QA = "Answer the question from the text. Give only the answer.\n\n{context}\n\nQuestion: {input}\nAnswer:"
_CHINESE_QA = "阅读以下文字并用中文简短回答问题,只给出答案。\n\n{context}\n\n问题:{input}\n回答:"
_SUMMARY = "Summarise the text.\n\n{context}\n\nSummary:"
_QUERY_SUMMARY = "Answer the question about the meeting in a few sentences.\n\n{context}\n\nQuestion: {input}\nAnswer:"
_CHINESE_SUMMARY = "阅读以下会议记录并写一段总结。\n\n{context}\n\n总结:"
_SHOTS = "{context}\n{input}"
_PARAGRAPH = (
    'Which of the paragraphs is summarised below? Answer as in "Paragraph 1".\n\n{context}\n\n{input}\n\nAnswer:'
)
_CHINESE_PARAGRAPH = '以下摘要来自哪一段?按"段落1"的格式回答。\n\n{context}\n\n{input}\n\n答案:'
_COUNT = (
    "Some of the paragraphs are repeated. How many different ones are there? Answer with the number.\n\n{context}\n\n"
    "Number:"
)
_CODE = "{context}{input}"

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("narrativeqa", "qasper"), Kind("f1", 128, _QA)),
    "multifieldqa_en": Kind("f1", 64, _QA),
    "multifieldqa_zh": Kind("f1_chinese", 64, _CHINESE_QA),
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique"), Kind("f1", 32, _QA)),
    "dureader": Kind("rouge_l_chinese", 128, _CHINESE_QA),
    **dict.fromkeys(("gov_report", "multi_news"), Kind("rouge_l", 512, _SUMMARY)),
    "qmsum": Kind("rouge_l", 512, _QUERY_SUMMARY),
    "vcsum": Kind("rouge_l_chinese", 512, _CHINESE_SUMMARY),
    **dict.fromkeys(("trec", "lsht"), Kind("classification", 64, _SHOTS, raw=True)),
    "triviaqa": Kind("f1", 32, _SHOTS, raw=True),
    "samsum": Kind("rouge_l", 128, _SHOTS, raw=True),
    "passage_count": Kind("counting", 32, _COUNT),
    "passage_retrieval_en": Kind("retrieval", 32, _PARAGRAPH),
    "passage_retrieval_zh": Kind("retrieval", 32, _CHINESE_PARAGRAPH),
    **dict.fromkeys(("lcc", "repobench-p"), Kind("edit_similarity", 64, _CODE, raw=True)),
}
OTHER = Kind("f1", 64, _QA)


def make(plan: SuitePlan, fit: Fit) -> list[Sample]:
    """All rows of the folder (or file) plan.data, at most max(plan.contexts) tokens each. plan.tasks: names of sets.

    Raises EvaluationError.
    """
    assert plan.data is not None
    prompts = _prompts(plan.data)
    limit = max(plan.contexts)
    samples: dict[str, Sample] = {}
    for file, index, row in _rows(plan.data):
        name = _set_name(file, row)
        if not plan.tasks or name in plan.tasks:
            sample = _sample(name, f"{name}/{row.get('_id', index)}", row, prompts, file, index)
            if sample.name in samples:
                raise EvaluationError(f"{file.name!r} holds the _id {row['_id']!r} twice: remove one of the rows")
            samples[sample.name] = _fitted(fit, sample, limit)
    if not samples:
        raise EvaluationError(f"no rows of {', '.join(plan.tasks) or 'any set'} in {str(plan.data)!r}: give *.jsonl")
    return list(samples.values())


def _set_name(file: Path, row: Mapping[str, Any]) -> str:
    return str(row.get("dataset") or file.stem).removesuffix("_e")  # LongBench-E: the same sets, other lengths


def _rows(data: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    files = sorted(data.glob("*.jsonl")) if data.is_dir() else [data]
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
    return dict(row)


def _prompts(data: Path) -> Mapping[str, str]:
    file = data / "dataset2prompt.json" if data.is_dir() else data.parent / "dataset2prompt.json"
    if not file.is_file():
        return {}
    prompts = json.loads(_read(file))
    if not isinstance(prompts, dict):
        raise EvaluationError(f"{file.name!r} is not an object of prompts by set: take LongBench's own")
    return prompts


def _sample(name: str, key: str, row: dict[str, Any], prompts: Mapping[str, str], file: Path, index: int) -> Sample:
    kind = KINDS.get(name, OTHER)
    try:
        prompt = prompts.get(name, kind.prompt).format(context=row["context"], input=row.get("input", ""))
    except (KeyError, IndexError, ValueError) as error:
        raise EvaluationError(f"the prompt of {name!r} has a field that line {index} of {file.name!r} lacks") from error
    turn = Turn(
        question="",
        answers=tuple(map(str, row["answers"])),
        metric=kind.metric,
        task=name,
        max_tokens=kind.max_tokens,
        stop=("\n",) if kind.raw and kind.metric != "edit_similarity" else (),
        classes=tuple(row.get("all_classes") or ()),
    )
    return Sample(f"qa/{key}", prompt, (turn,), raw=kind.raw, split={"set": name})


def _fitted(fit: Fit, sample: Sample, limit: int) -> Sample:
    """The sample, its middle cut out if it is longer than limit tokens."""
    room = fit.room(sample, limit)
    text = sample.document
    n = fit.count(text)
    while n > room:
        keep = max(len(text) * room // n - 8, 2)
        text = text[: keep // 2] + text[len(text) - keep // 2 :]
        n = fit.count(text)
    return replace(sample, document=text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise EvaluationError(f"cannot read {str(path)!r}: {reason}") from error
