"""The part of docs/results.md on real language models: runs of tools/measure_real.py in docs/results/real.

Of each run there is NAME.json, its table, and NAME.prompts.jsonl.gz: a line for each prompt, policy and budget with
what it came to. The page is made of the tables; a test compares them with the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

from .grid import FULL
from .report import markdown_table, matrix, percent
from .results_suites import difference, grid, listed

Data = Mapping[str, Any]

FOLDER = "real"

_SETS = {"niah": "needles in {haystack}", "fidelity": "what follows in {data}", "qa": "{data}"}
_MEASURES = {
    "agreement": "The same answer as the full cache's, token by token, share of prompts:",
    "kl": "KL divergence of the answer's predictions from the full cache's, nats, mean over its tokens:",
    "evidence": "Share of the marked passages' tokens that a layer holds, mean over layers:",
    "evidence_any": "Share of them that at least one layer holds:",
}


def sections(stored: Mapping[str, Data]) -> Iterator[str]:
    """A table over all runs of each model, then the runs. stored: by name of the file."""
    models = dict.fromkeys(data["model"]["file"] for data in stored.values())
    for model in models:
        runs = {name: data for name, data in stored.items() if data["model"]["file"] == model}
        yield "\n\n".join(_overview(model, runs))
        for name, data in sorted(runs.items(), key=lambda item: _order(item[1])):
            yield "\n\n".join(_run(name, data))


def title(data: Data) -> str:
    """What was asked: "needles in data, 2048 tokens"."""
    settings = {**data["settings"], "haystack": data["settings"].get("haystack") or "our own text"}
    what = str(_SETS.get(data["suite"], data["suite"])).format(**settings).replace(".jsonl.gz", "")
    many = ", all policies" if len({row["policy"] for row in data["rows"]}) > 12 else ""
    return f"{what}, {listed(settings['contexts'])} tokens{many}"


def _order(data: Data) -> tuple[int, str, int]:
    return max(data["settings"]["contexts"]), data["suite"], -data["n_prompts"]


def _overview(model: str, runs: Mapping[str, Data]) -> Iterator[str]:
    """Agreement (or fidelity's share) of every run, at each budget that all of them have."""
    yield f"## {model}"
    common = set.intersection(*({row["budget"] for row in data["rows"]} for data in runs.values())) - {1.0}
    ordered = sorted(runs.values(), key=_order)
    policies = dict.fromkeys(row["policy"] for data in ordered for row in data["rows"] if row["policy"] != FULL)
    for budget in sorted(common):
        yield f"{percent(budget)} tokens a layer: share of answers that are the full cache's, in each run:"
        lines = [[policy, *(_agreed(data, policy, budget) for data in ordered)] for policy in policies]
        yield markdown_table(["policy", *(f"{title(data)} (n = {data['n_prompts']})" for data in ordered)], lines)


def _agreed(data: Data, policy: str, budget: Any) -> str:
    found = [row for row in data["rows"] if (row["policy"], row["budget"]) == (policy, budget)]
    return f"{found[0].get('agreement', found[0]['score']):.2f}" if found else ""


def _run(name: str, data: Data) -> Iterator[str]:
    settings, profile = data["settings"], data["profile"]
    yield f"### {title(data)}: {data['model']['file']}"
    shared = data["n_documents"]
    documents = f" over {shared} documents" if shared != data["n_prompts"] else ""
    yield (
        f"[{name}]({_link(name)}), [prompts]({_link(name.replace('.json', '.prompts.jsonl.gz'))}): {data['n_prompts']} "
        f"prompts{documents}, tasks {listed(settings['tasks'])}, form {settings['form']}, seed {settings['seed']}"
        f"{_rows_of(settings)}; profile {profile['hash'] if profile['calibrated'] else 'uncalibrated'}, "
        f"{profile['n_heads']} heads a layer. {data['machine']['cpu']}, compresskv_edge "
        f"{data['machine']['compresskv_edge']}."
    )
    yield "Score:"
    yield matrix(data["rows"])
    compared = [row for row in data["rows"] if row["versus_base"]]
    if compared:
        yield f"Score minus {data['base']}'s at the same budget, paired by prompt:"
        yield grid(compared, lambda row: difference(row["versus_base"]))
    for measure, caption in _MEASURES.items():
        if any(measure in row for row in data["rows"]):
            yield caption
            yield grid(data["rows"], _with_interval(measure))


def _rows_of(settings: Data) -> str:
    return f", {settings['rows']} rows" if settings.get("rows", "all") != "all" else ""


def _link(name: str) -> str:
    return f"results/{FOLDER}/{name}"


def _with_interval(measure: str) -> Callable[[Data], str]:
    digits = 3 if measure == "kl" else 2

    def text(row: Data) -> str:
        if measure not in row:
            return ""
        values: Sequence[Optional[float]] = (row[measure], *row["intervals"][measure])
        return "{} ({} to {})".format(*(f"{value:.{digits}f}" for value in values))

    return text
