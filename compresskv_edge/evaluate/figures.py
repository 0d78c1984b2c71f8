"""PNG figures of a run's summary: a heat map for each policy, score against budget, score against KV bytes.

Needs the extra `plot` (matplotlib).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EvaluationError
from ..plot import new_figure
from .grid import BASE, FULL
from .report import percent

_DPI = 150
_MARKS = "osD^vPX*<>dph8H"
_BASE_STYLE = {"linewidth": 2.2, "color": "black", "zorder": 3}


def draw(summary: Mapping[str, Any], folder: Path, stem: str) -> list[Path]:
    """Write all figures of a summary: STEM-budget.png, STEM-bytes.png, and STEM-heat-POLICY.png where there are depths.

    Raises CompressKVError without matplotlib, EvaluationError if a file cannot be written.
    """
    paths = [
        _curves(summary, folder / f"{stem}-budget.png", "budget"),
        _curves(summary, folder / f"{stem}-bytes.png", "kv_bytes"),
    ]
    heat = summary.get("heat", {"cells": []})
    for policy in dict.fromkeys(cell["policy"] for cell in heat["cells"]):
        name = policy.replace(":", "-").replace("=", "-")
        paths.append(_heat_maps(summary, policy, folder / f"{stem}-heat-{name}.png"))
    return paths


def _curves(summary: Mapping[str, Any], path: Path, field: str) -> Path:
    """Score with its interval over the budget (share of the prompt) or the bytes of the cache."""
    figure = new_figure()(figsize=(8.5, 4.8), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    rows = [row for row in summary["rows"] if row["policy"] != FULL]
    for i, policy in enumerate(dict.fromkeys(row["policy"] for row in rows)):
        mine = sorted((row for row in rows if row["policy"] == policy), key=lambda row: _x(row, field))
        x = np.array([_x(row, field) for row in mine])
        score, low, high = (np.array([row[name] for row in mine]) for name in ("score", "low", "high"))
        style = _BASE_STYLE if policy == BASE else {"linewidth": 1.0, "color": _colours()[i % 20]}
        spread = [np.maximum(score - low, 0), np.maximum(high - score, 0)]
        axis.errorbar(x, score, spread, label=policy, marker=_MARKS[i % len(_MARKS)], markersize=4, capsize=2, **style)
    _finish(axis, summary, field, rows)
    return _save(figure, path)


def _finish(axis: Any, summary: Mapping[str, Any], field: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in summary["rows"]:
        if row["policy"] == FULL:
            axis.axhline(row["score"], color="0.5", linestyle="--", linewidth=1, label="full cache")
    if field == "budget":
        axis.set_xscale("log")
        ticks = {row["budget"]: _x(row, field) for row in rows}
        axis.set_xticks(list(ticks.values()), list(map(percent, ticks)))
        axis.minorticks_off()
    axis.set_xlabel("kept of the prompt" if field == "budget" else "KV cache after the prompt, KiB")
    axis.set_ylabel("agreement with the full cache" if summary["suite"] == "fidelity" else "score")
    axis.set_ylim(-0.02, 1.03)
    axis.set_title(f"{summary['suite']}, {summary['model']['file']}, {summary['n_prompts']} prompts", fontsize=10)
    axis.figure.legend(loc="outside right center", fontsize=7, frameon=False)
    axis.grid(alpha=0.25)


def _colours() -> list[Any]:
    """Twenty that differ: the strong ones first, then their pale sisters."""
    from matplotlib import colormaps

    twenty = list(colormaps["tab20"](np.arange(20)))
    return twenty[::2] + twenty[1::2]


def _x(row: Mapping[str, Any], field: str) -> float:
    """Per cent of the prompt (budgets in tokens and in fractions on one axis), or KiB."""
    return float(row["kv_bytes"] / 1024 if field == "kv_bytes" else 100 * row["n_kept"] / row["n_prompt"])


def _heat_maps(summary: Mapping[str, Any], policy: str, path: Path) -> Path:
    """Depth down, context across, one map for each budget."""
    heat = summary["heat"]
    cells = [cell for cell in heat["cells"] if cell["policy"] == policy]
    contexts, depths = heat["contexts"], heat["depths"]
    width = max(len(cells) * (0.45 * len(contexts) + 0.9) + 1.5, 4.5)
    figure = new_figure()(figsize=(width, 4.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(cells), squeeze=False, sharey=True)[0]
    for axis, cell in zip(axes, cells):
        values = np.array(cell["scores"], dtype=np.float64)  # None becomes NaN
        image = axis.imshow(values, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        axis.set_title("full cache" if policy == FULL else percent(cell["budget"]), fontsize=9)
        axis.set_xticks(range(len(contexts)), [str(context) for context in contexts], fontsize=7, rotation=45)
        axis.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths], fontsize=7)
        axis.set_xlabel("tokens", fontsize=8)
    axes[0].set_ylabel("depth of what is asked", fontsize=8)
    figure.colorbar(image, ax=axes, label="score")
    figure.suptitle(f"{summary['suite']}, {summary['model']['file']}: {policy}", fontsize=10)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise EvaluationError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return path
