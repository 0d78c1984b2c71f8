"""docs/results.md and its figures from the stored JSON files.

    python -m compresskv_edge.evaluate.results docs/results docs/results.md

Whatever lies in the folder gets a section: runs of `compresskv eval`, and the other measurements of this project.
summary.txt, which people write, comes first. Real language models lead, from the folder `real` (results_real.py).
Figures lie beside the JSON files that they are drawn from. Runs in the folder `ablation` compare a policy with itself
less one part; they come after the others, by their differences only.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from . import figures, results_others, results_real
from .grid import FULL
from .report import markdown_table, percent
from .results_suites import PARTS, ablation, difference, suite
from .suite_run import SUITES
from .summary import double

Data = Mapping[str, Any]

_HEAD = """# Results

"""
_HOW = """Made by `python -m compresskv_edge.evaluate.results docs/results docs/results.md` from the files in
[results/](results/); a test compares them. Scores are shares of 1 with 95 % bootstrap intervals over prompts,
decoding is greedy, on one thread. All policies keep the same number of tokens in total at a budget, window included,
and read the same prompt once; the first token of an answer comes from the full prompt. KV bytes, times and every split
are in the files.
"""
_APPENDIX = "## Appendix: two small models that were trained for this project"
_SUMMARY = "summary.txt"
_VARIANT = "edge"


def render(folder: Path) -> str:
    """The whole page: real models, then ours: summary, overview of each model, runs of `compresskv eval`, then the
    others by name.
    """
    stored, real = _stored(folder), _stored(folder / results_real.FOLDER)
    first = [_written(folder / results_real.FOLDER), _HOW, *results_real.sections(real), _APPENDIX] if real else []
    head = "\n\n".join(part.strip() for part in (*first, _written(folder), *([] if real else [_HOW])) if part) + "\n"
    overviews = (_overview(model, runs) for model, runs in _by_model(stored).items())
    order = sorted(stored, key=lambda name: _rank(stored[name]))
    known = [name for name in order if any(mark in stored[name] for mark, _ in _RENDERERS)]
    others = [f"- [{name}](results/{name})" for name in order if name not in known]
    rest = ["\n".join(["## Other measurements", "", *others])] if others else []
    sections = [*overviews, *(_section(name, stored[name]) for name in known), *_ablations(folder / PARTS), *rest]
    return _HEAD + head + "".join(f"\n{section}\n" for section in sections)


def _written(folder: Path) -> str:
    """What people wrote about the runs in a folder."""
    file = folder / _SUMMARY
    return file.read_text(encoding="utf-8") if file.exists() else ""


def draw(folder: Path) -> list[Path]:
    """The figures that the page shows, into the folder. Raises CompressKVError without matplotlib."""
    models = _by_model(_stored(folder)).items()
    return [path for model, runs in models for path in figures.overview(runs, folder, _stem(model))]


def _stored(folder: Path) -> dict[str, Data]:
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def _by_model(stored: Mapping[str, Data]) -> dict[str, list[Data]]:
    """The runs of each model that all policies of an overview are in: one for each suite, suites in their order."""
    found: dict[str, list[Data]] = {}
    for data in sorted((data for data in stored.values() if "suite" in data), key=_rank):
        if not any(other["suite"] == data["suite"] for other in found.get(data["model"]["file"], ())):
            found.setdefault(data["model"]["file"], []).append(data)
    return found


def _rank(data: Data) -> tuple[int, str, int, int]:
    """Runs first, by model and suite, those of more prompts before those of fewer."""
    if "suite" not in data:
        return 1, "", 0, 0
    return 0, data["model"]["file"], SUITES.index(data["suite"]), -data["n_prompts"]


def _stem(model: str) -> str:
    return f"figure-{Path(model).stem}"


def _overview(model: str, runs: Sequence[Data]) -> str:
    stem, niah = _stem(model), next((run for run in runs if run["suite"] == "niah"), {})
    pictures = {"score against budget": f"{stem}-budget.png", "score against KV bytes": f"{stem}-bytes.png"}
    if "heat" in niah:
        pictures["needles by depth and context"] = f"{stem}-heat.png"
    policies = dict.fromkeys(row["policy"] for run in runs for row in run["rows"] if row["policy"] != FULL)
    lines = [[policy, *(_crossing(run["rows"], policy, 0.9) for run in runs)] for policy in policies]
    parts = [
        f"## {model}: at a glance",
        *(f"![{model}: {caption}](results/{name})" for caption, name in pictures.items()),
        "The budget below which the mean score falls under 90 % of the full cache's, on a straight line between "
        "measured budgets:",
        markdown_table(["policy", *(run["suite"].replace("_", "-") for run in runs)], lines),
        *_halves(runs),
    ]
    return "\n\n".join(parts)


def _crossing(rows: Sequence[Data], policy: str, level: float) -> str:
    """Where a policy's mean score falls under a share of full: interpolated over the logarithm of the budget."""
    mine = sorted((row for row in rows if row["policy"] == policy and row["of_full"]), key=lambda row: -row["budget"])
    above: Optional[Data] = None
    for row in mine:
        if row["of_full"][0] >= level:
            above = row
            continue
        if above is None:
            return f"over {percent(row['budget'])}"
        return _between(row, above, level)
    return "" if above is None else f"under {percent(above['budget'])}"


def _between(below: Data, above: Data, level: float) -> str:
    share = (level - below["of_full"][0]) / (above["of_full"][0] - below["of_full"][0])
    budget = below["budget"] * math.exp(share * math.log(above["budget"] / below["budget"]))
    return f"{100 * budget:.1f} %" if isinstance(above["budget"], float) else f"{budget:.0f}"


def _halves(runs: Sequence[Data]) -> Iterator[str]:
    """Our variant with half of the base's tokens: what it gains or loses, and what it takes of the bytes."""
    found = [(run, [row for row in run["rows"] if row["policy"] == _VARIANT and row["versus_double"]]) for run in runs]
    budgets = sorted({row["budget"] for _, rows in found for row in rows})
    if not budgets:
        return
    base = runs[0]["base"]
    pairs = {budget: double(budget, _budgets_of(runs[0]["rows"], base)) for budget in budgets}
    columns = [f"{percent(budget)} for {percent(twice)}" for budget, twice in pairs.items()]
    yield f"{_VARIANT} minus {base} with twice the tokens, paired by prompt, and the ratio of their KV bytes:"
    lines = []
    for run, rows in found:
        bytes_of = {(row["policy"], row["budget"]): row["kv_bytes"] for row in run["rows"]}
        cells = {row["budget"]: difference(row["versus_double"]) for row in rows}
        ratios = {b: bytes_of[_VARIANT, b] / bytes_of[base, pairs[b]] for b in cells}
        lines.append([run["suite"].replace("_", "-"), *(f"{cells[b]}; {ratios[b]:.2f}" for b in budgets)])
    yield markdown_table(["suite", *columns], lines)


def _budgets_of(rows: Sequence[Data], policy: str) -> list[Any]:
    return [row["budget"] for row in rows if row["policy"] == policy]


def _section(name: str, data: Data) -> str:
    renderer = next(renderer for mark, renderer in _RENDERERS if mark in data)
    return "\n\n".join(renderer(name, data))


_RENDERERS: tuple[tuple[str, Callable[[str, Data], Iterator[str]]], ...] = (
    ("suite", suite),
    ("overall", results_others.needle),
    ("checks", results_others.bench),
    ("accuracy", results_others.calibration),
    ("digest", results_others.digest),
)


def _ablations(folder: Path) -> Iterator[str]:
    """A section for each model, a table for each suite."""
    stored = _stored(folder)
    models = dict.fromkeys(data["model"]["file"] for data in stored.values())
    for model in models:
        runs = sorted(((n, d) for n, d in stored.items() if d["model"]["file"] == model), key=lambda x: _rank(x[1]))
        parts = [text for name, data in runs for text in ablation(name, data)]
        yield "\n\n".join([f"## {runs[0][1]['base']}, part by part: {model}", *parts])


def main() -> None:
    """Write the page and draw its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the JSON files")
    parser.add_argument("page", type=Path, help="Markdown file to write, beside the folder")
    args = parser.parse_args()
    args.page.write_text(render(args.folder), encoding="utf-8")
    draw(args.folder)


if __name__ == "__main__":
    main()
