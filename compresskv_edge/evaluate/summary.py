"""From outcomes to the table of a run: policy x budget with intervals, and split by task, context and depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, Optional

from . import bootstrap
from .grid import BASE, FULL
from .outcome import Outcome
from .sample import Sample

Row = dict[str, Any]
Scores = dict[tuple[Any, ...], dict[str, float]]  # (policy, budget, ...) -> sample -> score

SPLITS = ("context", "distractors", "set")
_WEAK = 0.2  # a task that the full cache scores less on measures nothing


class Groups:
    """Which samples count as one where intervals are drawn: those that share a document."""

    def __init__(self, by_sample: Mapping[str, str]) -> None:
        self._by_sample = by_sample

    def of(self, sample: str) -> str:
        """The group's name."""
        return self._by_sample[sample]

    def named(self, samples: Iterable[str]) -> list[str]:
        """Of each sample."""
        return [self.of(sample) for sample in samples]


def summarise(outcomes: Sequence[Outcome], samples: Sequence[Sample], base: str = BASE) -> Row:
    """{"base": ..., "rows": [...], "by_task": [...], "by_context": [...], ..., "heat": {...}}.

    A row has policy, budget, n, score with low and high, of_full, versus_base and versus_double with theirs ([value,
    low, high]; versus_double: the base with twice the budget or the next one above, None without one), n_kept,
    kv_bytes, prefill_ms, evict_ms, decode_ms and the means of extra measures, with `intervals` by their name. base: the
    policy of versus_base. heat: mean scores by depth and context. held: share of the marked passages' tokens in each
    layer. n_documents: samples that share a document are drawn together for the intervals. Only samples that every
    policy and budget has answered are counted: all rows are of the same prompts.
    """
    complete = _complete(outcomes)
    splits = {sample.name: sample.split for sample in samples}
    groups = Groups({sample.name: sample.group or sample.name for sample in samples})
    summary: Row = {"base": base, "n_prompts": len({o.sample for o in complete})}
    summary["n_documents"] = len({groups.of(o.sample) for o in complete})
    summary["rows"] = _rows(complete, base, groups)
    summary["by_task"] = _split(complete, lambda o: [((s.task,), s.score) for s in o.scores], ("task",), groups)
    for name in SPLITS:
        if len({split.get(name) for split in splits.values()}) > 1:
            summary[f"by_{name}"] = _split(complete, _value_of(name, splits), (name,), groups)
    if any("depth" in split for split in splits.values()):
        summary["heat"] = _heat(complete, splits)
    if any(o.held for o in complete):
        summary["held"] = _held(complete)
    return summary


def weak_tasks(summary: Mapping[str, Any]) -> list[str]:
    """Tasks that the full cache hardly answers: they say nothing about a policy."""
    return [row["task"] for row in summary["by_task"] if row["policy"] == FULL and row["score"] < _WEAK]


def counted(outcome: Outcome) -> float:
    """Mean over the turns that count."""
    return fmean(score.score for score in outcome.scores if score.counted)


def _complete(outcomes: Sequence[Outcome]) -> list[Outcome]:
    cells = {(o.policy, o.budget) for o in outcomes}
    found: dict[str, int] = {}
    for outcome in outcomes:
        found[outcome.sample] = found.get(outcome.sample, 0) + 1
    return [o for o in outcomes if found[o.sample] == len(cells)]


def _rows(outcomes: Sequence[Outcome], base: str, documents: Groups) -> list[Row]:
    groups: dict[tuple[str, Any], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.policy, outcome.budget), []).append(outcome)
    scores = {key: {o.sample: counted(o) for o in group} for key, group in groups.items()}
    full = next((by_sample for (policy, _), by_sample in scores.items() if policy == FULL), None)
    rows = []
    for (policy, budget), by_sample in scores.items():
        others = {} if policy in (base, FULL) else {b: found for (name, b), found in scores.items() if name == base}
        row = {
            **_scores((policy, budget), by_sample, documents),
            "of_full": _compare(bootstrap.ratio, by_sample, full, documents),
            "versus_base": _compare(bootstrap.paired, by_sample, others.get(budget), documents),
            "versus_double": _compare(bootstrap.paired, by_sample, others.get(double(budget, others)), documents),
            **_costs(groups[policy, budget]),
            **_extras(groups[policy, budget], documents),
        }
        rows.append(row)
    return rows


def double(budget: Any, budgets: Iterable[Any]) -> Any:
    """The smallest of the budgets that is twice this one or more; None: there is none."""
    return min((other for other in budgets if other >= 2 * budget), default=None)


def _scores(key: tuple[Any, ...], by_sample: Mapping[str, float], documents: Groups) -> Row:
    values = list(by_sample.values())
    low, high = bootstrap.interval(values, documents.named(by_sample))
    return {
        **{"policy": key[0], "budget": key[1], "n": len(values)},
        **{"score": _round(fmean(values)), "low": _round(low), "high": _round(high)},
    }


def _compare(
    how: Callable[..., tuple[float, float, float]],
    values: Mapping[str, float],
    base: Optional[Mapping[str, float]],
    documents: Groups,
) -> Optional[list[float]]:
    """[value, low, high], None where there is nothing to compare with."""
    if base is None:
        return None
    compared = how([values[name] for name in values], [base[name] for name in values], documents.named(values))
    return None if compared[0] != compared[0] else [_round(x) for x in compared]


def _costs(group: Sequence[Outcome]) -> Row:
    decoded = [o.decode_ms for o in group if o.decode_ms is not None]
    return {
        "n_prompt": round(fmean(o.n_prompt for o in group), 1),
        "n_kept": round(fmean(o.n_kept for o in group), 2),
        "kv_bytes": round(fmean(o.kv_bytes for o in group)),
        "prefill_ms": round(median(o.prefill_ms for o in group), 2),
        "evict_ms": round(median(o.evict_ms for o in group), 2),
        "decode_ms": round(median(decoded), 3) if decoded else None,
    }


def _extras(group: Sequence[Outcome], documents: Groups) -> Row:
    """Means of extra measures over the turns that have them, and their intervals."""
    found: dict[str, dict[str, float]] = {}
    for o in group:
        for name in {name for score in o.scores for name in score.extra}:
            values = [score.extra[name] for score in o.scores if name in score.extra]
            found.setdefault(name, {})[o.sample] = fmean(values)
    row: Row = {name: _round(fmean(found[name].values())) for name in sorted(found)}
    if found:
        row["intervals"] = {
            name: list(map(_round, bootstrap.interval(list(by_sample.values()), documents.named(by_sample))))
            for name, by_sample in sorted(found.items())
        }
    return row


def _held(outcomes: Sequence[Outcome]) -> list[Row]:
    """Mean share of the marked passages' tokens that each layer holds, (n_layer,), a row for each policy and budget."""
    found: dict[tuple[str, Any], list[tuple[float, ...]]] = {}
    for o in outcomes:
        if o.held:
            found.setdefault((o.policy, o.budget), []).append(o.held)
    return [
        {"policy": policy, "budget": budget, "layers": [round(fmean(layer), 3) for layer in zip(*rows)]}
        for (policy, budget), rows in found.items()
    ]


def _value_of(name: str, splits: Mapping[str, Mapping[str, Any]]) -> Callable[[Outcome], list[tuple[Any, float]]]:
    return lambda o: [((splits[o.sample][name],), counted(o))]


def _heat(outcomes: Sequence[Outcome], splits: Mapping[str, Mapping[str, Any]]) -> Row:
    """{"depths", "contexts", "cells": [{policy, budget, scores (n_depths, n_contexts), null where there is none}]}."""
    depths, contexts = (sorted({splits[o.sample][name] for o in outcomes}) for name in ("depth", "context"))
    found: dict[tuple[Any, ...], list[float]] = {}
    for o in outcomes:
        split = splits[o.sample]
        found.setdefault((o.policy, o.budget, split["depth"], split["context"]), []).append(counted(o))
    means = {key: _round(fmean(scores)) for key, scores in found.items()}
    cells = [
        {"policy": p, "budget": b, "scores": [[means.get((p, b, d, c)) for c in contexts] for d in depths]}
        for p, b in dict.fromkeys(key[:2] for key in found)
    ]
    return {"depths": depths, "contexts": contexts, "cells": cells}


def _split(
    outcomes: Sequence[Outcome],
    parts: Callable[[Outcome], Iterable[tuple[Any, float]]],
    names: Sequence[str],
    documents: Groups,
) -> list[Row]:
    """Rows for each policy, budget and value of the split; parts: (value, score) pairs of an outcome."""
    groups: Scores = {}
    of_part: dict[str, str] = {}
    for outcome in outcomes:
        for i, (value, score) in enumerate(parts(outcome)):
            groups.setdefault((outcome.policy, outcome.budget, *value), {})[f"{outcome.sample}/{i}"] = score
            of_part[f"{outcome.sample}/{i}"] = documents.of(outcome.sample)
    parted = Groups(of_part)
    return [{**dict(zip(names, key[2:])), **_scores(key, by_sample, parted)} for key, by_sample in groups.items()]


def _round(value: float) -> float:
    return round(value, 4)


def to_json(summary: Mapping[str, Any]) -> str:
    """A summary as JSON with a line for each row: small, and a change shows where it is."""
    parts = [f"{json.dumps(key)}: {_lines(value)}" for key, value in summary.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n]"
    return json.dumps(value)
