"""PNG figures of a run's summary: a heat map for each policy, score against budget, score against KV bytes.

`draw` is for one run, `overview` for all runs on one model. The same summaries give the same bytes with the same
matplotlib, and each file holds the digest of what it was drawn from (`source`).

Needs the extra `plot` (matplotlib, which brings Pillow).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..calibration.plot import new_figure
from ..errors import EvaluationError
from . import report
from .grid import BASE, FULL
from .report import percent

Summary = Mapping[str, Any]
Row = Mapping[str, Any]

HEAT_POLICIES = (BASE, "edge", "snapkv")  # of an overview

_DPI = 110
_N_COLOURS = 64  # of a file: a third of the size
_MARKS = "osD^vPX*<>dph8H"
_STYLES: dict[str, dict[str, Any]] = {
    BASE: {"linewidth": 2.2, "color": "black", "zorder": 4},
    "edge": {"linewidth": 2.2, "color": "#d62728", "zorder": 3},
}
_SOURCE = "Source"  # key of the digest in a PNG


def draw(summary: Summary, folder: Path, stem: str) -> list[Path]:
    """Write all figures of a summary: STEM-budget.png, STEM-bytes.png, and STEM-heat-POLICY.png where there are depths.

    Raises CompressKVError without matplotlib, EvaluationError if a file cannot be written.
    """
    paths = []
    for field in ("budget", "kv_bytes"):
        figure = new_figure()(figsize=(8.5, 4.8), dpi=_DPI, layout="constrained")
        _curves(figure.subplots(), summary, field, _policies(summary))
        _legend(figure)
        paths.append(_save(figure, folder / f"{stem}-{_END[field]}.png", [summary]))
    for policy in dict.fromkeys(cell["policy"] for cell in summary.get("heat", {"cells": []})["cells"]):
        name = "".join(c if c.isalnum() or c in "_+" else "-" for c in policy)
        paths.append(_heat_maps(summary, [policy], folder / f"{stem}-heat-{name}.png"))
    return paths


def overview(summaries: Sequence[Summary], folder: Path, stem: str) -> list[Path]:
    """Write STEM-budget.png and STEM-bytes.png with a panel for each run, and STEM-heat.png where there are depths.

    summaries: of one model. Panels show the policies that all of them have. Raises as `draw`.
    """
    shared = [name for name in _policies(summaries[0]) if all(name in _policies(other) for other in summaries)]
    paths = []
    for field in ("budget", "kv_bytes"):
        figure = new_figure()(figsize=(10.5, 3.1 * -(-len(summaries) // 3) + 0.5), dpi=_DPI, layout="constrained")
        axes = list(figure.subplots(-(-len(summaries) // 3), 3, squeeze=False).flat)
        for axis, summary in zip(axes, summaries):
            _curves(axis, summary, field, shared)
            axis.set_title(f"{summary['suite'].replace('_', '-')}, {summary['n_prompts']} prompts", fontsize=9)
        for axis in axes[len(summaries) :]:
            axis.set_axis_off()
        _legend(figure)
        paths.append(_save(figure, folder / f"{stem}-{_END[field]}.png", summaries))
    with_depths = next((summary for summary in summaries if summary["suite"] == "niah" and "heat" in summary), None)
    if with_depths is not None:
        wanted = [name for name in HEAT_POLICIES if name in _policies(with_depths)]
        paths.append(_heat_maps(with_depths, wanted, folder / f"{stem}-heat.png"))
    return paths


def digest(summaries: Sequence[Summary]) -> str:
    """Of the rows and heat maps of summaries: changes when a figure has to be drawn again."""
    drawn = [[summary["suite"], summary["rows"], summary.get("heat")] for summary in summaries]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def source(path: Path) -> Optional[str]:
    """The digest of what a figure was drawn from."""
    from PIL import Image

    with Image.open(path) as image:
        found: Optional[str] = image.info.get(_SOURCE)
    return found


_END = {"budget": "budget", "kv_bytes": "bytes"}


def _policies(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in summary["rows"] if row["policy"] != FULL))


def _curves(axis: Any, summary: Summary, field: str, policies: Sequence[str]) -> None:
    """Score with its interval over the budget (share of the prompt) or the bytes of the cache."""
    rows = summary["rows"]
    for i, policy in enumerate(policies):
        mine = sorted((row for row in rows if row["policy"] == policy), key=lambda row: _x(row, field))
        aside = 1 + (0.012 if field == "budget" else 0.006) * (
            i - (len(policies) - 1) / 2
        )  # so that intervals can be told apart
        x = np.array([_x(row, field) * aside for row in mine])
        score, low, high = (np.array([row[name] for row in mine]) for name in ("score", "low", "high"))
        style = _STYLES.get(policy, {"linewidth": 1.0, "color": _colours()[i % 20]})
        spread = [np.maximum(score - low, 0), np.maximum(high - score, 0)]
        axis.errorbar(
            x, score, spread, label=policy, marker=_MARKS[i % len(_MARKS)], markersize=4, elinewidth=0.8, **style
        )
    _full(axis, next((row for row in rows if row["policy"] == FULL), None), field)
    _axes(axis, summary, field, [row for row in rows if row["policy"] in policies])


def _full(axis: Any, row: Optional[Row], field: str) -> None:
    if row is not None:
        axis.axhline(row["score"], color="0.5", linestyle="--", linewidth=1, label="full cache")
    if row is not None and field == "kv_bytes":
        axis.plot(_x(row, field), row["score"], marker="o", color="0.5", markersize=6)


def _axes(axis: Any, summary: Summary, field: str, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_xscale("log")
    if field == "budget":
        ticks = {row["budget"]: _x(row, field) for row in rows}
        axis.set_xticks(list(ticks.values()), list(map(percent, ticks)))
    else:
        axis.xaxis.set_major_locator(LogLocator(base=2))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}" if x < 1024 else f"{x / 1024:.0f} Mi"))
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    axis.set_xlabel("kept of the prompt" if field == "budget" else "KV cache after the prompt, KiB", fontsize=8)
    axis.set_ylabel("agreement with the full cache" if summary["suite"] == "fidelity" else "score", fontsize=8)
    axis.set_ylim(-0.02, 1.03)
    axis.set_title(report.title(summary), fontsize=10)
    axis.grid(alpha=0.25)


def _legend(figure: Any) -> None:
    """One for all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)


def _colours() -> list[Any]:
    """Twenty that differ: the strong ones first, then their pale sisters; without the red of `edge`."""
    from matplotlib import colormaps

    twenty = list(colormaps["tab20"](np.arange(20)))
    strong = twenty[::2]
    return strong[:3] + strong[4:] + twenty[1::2] + [strong[3]]


def _x(row: Row, field: str) -> float:
    """Per cent of the prompt (budgets in tokens and in fractions on one axis), or KiB."""
    return float(row["kv_bytes"] / 1024 if field == "kv_bytes" else 100 * row["n_kept"] / row["n_prompt"])


def _heat_maps(summary: Summary, policies: Sequence[str], path: Path) -> Path:
    """Depth down, context across, one map for each budget, one line of maps for each policy."""
    heat = summary["heat"]
    cells = {name: [cell for cell in heat["cells"] if cell["policy"] == name] for name in policies}
    n_columns = max(map(len, cells.values()))
    width = max(n_columns * (0.3 * len(heat["contexts"]) + 0.7) + 1.8, 4.5)
    figure = new_figure()(figsize=(width, 2.6 * len(policies) + 0.8), dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(policies), n_columns, squeeze=False, sharex=True, sharey=True)
    for axes, (policy, mine) in zip(grid, cells.items()):
        for axis, cell in zip(axes, mine):
            image = _heat_map(axis, heat, cell)
        axes[0].set_ylabel(f"{policy}: depth" if len(policies) > 1 else "depth of what is asked", fontsize=8)
    for axis in grid[-1]:
        axis.set_xlabel("tokens", fontsize=8)
    figure.colorbar(image, ax=grid, label="score")
    title = f"{summary['suite']}, {summary['model']['file']}"
    figure.suptitle(title if len(policies) > 1 else f"{title}: {policies[0]}", fontsize=10)
    return _save(figure, path, [summary])


def _heat_map(axis: Any, heat: Summary, cell: Row) -> Any:
    values = np.array(cell["scores"], dtype=np.float64)  # None becomes NaN
    axis.set_title("full cache" if cell["policy"] == FULL else percent(cell["budget"]), fontsize=9)
    axis.set_xticks(range(len(heat["contexts"])), list(map(str, heat["contexts"])), fontsize=7, rotation=45)
    axis.set_yticks(range(len(heat["depths"])), [f"{100 * depth:.0f} %" for depth in heat["depths"]], fontsize=7)
    return axis.imshow(values, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")


def _save(figure: Any, path: Path, summaries: Sequence[Summary]) -> Path:
    from PIL import Image, PngImagePlugin

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    info = PngImagePlugin.PngInfo()
    info.add_text(_SOURCE, digest(summaries))
    with Image.open(drawn) as image:
        small = image.convert("RGB").quantize(_N_COLOURS)
    try:
        small.save(path, format="PNG", optimize=True, pnginfo=info)
    except OSError as error:
        raise EvaluationError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return path
