"""Sections of docs/results.md on measurements that are no runs of `compresskv eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .needle_report import markdown
from .report import markdown_table, percent
from .results_suites import listed

Data = Mapping[str, Any]


def needle(name: str, data: Data) -> Iterator[str]:
    settings = data["settings"]
    in_pieces = any(row["policy"] == "compresskv_chunked" for row in data["overall"])
    subject = "prompts read whole and in pieces" if in_pieces else "the first measurement"
    yield f"## Needles, {subject}: {settings['profile']}"
    command = "python -m compresskv_edge.evaluate.needle" + (" --prefill" if in_pieces else "")
    yield (
        f"[{name}](results/{name}): `{command}`, {settings['n_prompts']} prompts of {listed(settings['contexts'])} "
        f"tokens, seed {settings['seed']}; Wilson intervals."
    )
    yield markdown(data)


def bench(name: str, data: Data) -> Iterator[str]:
    machine, plan, summary = data["machine"], data["plan"], data["summary"]
    where = ", over RPC" if plan.get("rpc_servers") else ""
    if plan.get("n_gpu_layers") and not where:
        where = f", on {', '.join(machine['devices'])}"
    yield f"## Times and memory: {data['model']['name']}{where}"
    yield (
        f"[{name}](results/{name}): `compresskv bench`, prompt of {plan['prompt_tokens']} tokens, "
        f"{plan['budget_tokens']} a layer, {data['threads']} threads of {machine['cpu']}{where}."
    )
    yield markdown_table(["figure", "value"], [[key, _figure(value)] for key, value in summary.items()])


def calibration(name: str, data: Data) -> Iterator[str]:
    yield f"## What calibration is worth: {data['model']}"
    yield f"[{name}](results/{name}): `python tools/measure_calibration.py`, {data['documents']} documents a half."
    lines = [
        [row["profile"], percent(row["budget"]), str(row["n"]), f"{row['percent']:.1f}"] for row in data["accuracy"]
    ]
    yield markdown_table(["profile", "budget", "n", "right, %"], lines)


def digest(name: str, data: Data) -> Iterator[str]:
    settings = data["settings"]
    asked = f", {settings['questions']} questions of its own for each thousand tokens"
    yield f"## Documents read once: {settings['model']}, {percent(settings['budget'])}, {settings['probe']}"
    yield (
        f"[{name}](results/{name}): `python -m compresskv_edge.evaluate.digest`, {settings['documents']} documents of "
        f"{listed(settings['lengths'])} tokens, probe {settings['probe']}{asked if settings['probe'] == 'ask' else ''}"
        "; Wilson intervals, then the first to the last question."
    )
    rows = {kind: data[kind] for kind in ("full", "digest")}
    yield markdown_table(
        ["cache", "right", *(str(i + 1) for i in range(len(data["full"]["by_question"])))],
        [
            [kind, f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})", *map(str, row["by_question"])]
            for kind, row in rows.items()
        ],
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
