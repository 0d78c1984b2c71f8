"""Pictures of a profile: which heads retrieve, and what compression costs each layer. Needs the extra `plot`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CompressKVError, ProfileError
from ..model.profile import Profile

_DPI = 150


def plot_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a PNG: heat maps of both head scores (layer x head), side by side, above a bar chart of the layer errors.

    A profile without scores (a published one) gets its ranking as a heat map. Raises CompressKVError without
    matplotlib, ProfileError if the file cannot be written.
    """
    figure = new_figure()(figsize=_size(profile), dpi=_DPI, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(max(profile.model.n_layer, 8), 7))
    _heads(top, profile)
    _errors(bottom, profile)
    figure.suptitle(profile.model.name or "profile", fontsize=11)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ProfileError(f"cannot write {str(path)!r}: {error.strerror}") from error


def new_figure() -> Any:
    """matplotlib's Figure without pyplot: no window, no state, no display needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CompressKVError(
            "plotting needs matplotlib, which is not installed: pip install 'compresskv-edge[plot]'"
        ) from error
    return Figure


def _size(profile: Profile) -> tuple[float, float]:
    """Inches."""
    n_head = max(profile.model.heads_in(layer) for layer in range(profile.model.n_layer))
    return min(max(2 * (0.16 * n_head + 1.6), 8.0), 16.0), min(max(0.17 * profile.model.n_layer + 4.0, 5.5), 18.0)


def _heads(figure: Any, profile: Profile) -> None:
    maps = _maps(profile)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (title, values, unit) in zip(axes, maps):
        image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0.0, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("head")
        axis.set_ylabel("layer")
        _count(axis.xaxis, values.shape[1])
        _count(axis.yaxis, values.shape[0])
        figure.colorbar(image, ax=axis, label=unit)


def _maps(profile: Profile) -> list[tuple[str, npt.NDArray[np.float64], str]]:
    """Title, values (n_layer, n_head) and their unit."""
    calibration = profile.calibration
    if calibration is None:
        return [("ranking of the heads", _ranking(profile), "share of the layer's heads ranked below")]
    n = calibration.n_counted
    return [
        (
            f"semantic retrieval score, {n} prompts",
            calibration.scores("semantic_scores"),
            "attention mass on the needle",
        ),
        ("classic retrieval score (top-1 copy)", calibration.scores("classic_scores"), "share of the needle copied"),
    ]


def _ranking(profile: Profile) -> npt.NDArray[np.float64]:
    n_heads = [profile.model.heads_in(layer) for layer in range(profile.model.n_layer)]
    out = np.full((len(n_heads), max(n_heads)), np.nan)
    for row, n, ranking in zip(out, n_heads, profile.heads_ranked):
        row[:n] = 0.0
        for place, head in enumerate(ranking):
            row[head] = 1.0 - place / n
    return out


def _errors(figure: Any, profile: Profile) -> None:
    axis = figure.subplots()
    layers, errors = np.arange(profile.model.n_layer), np.array(profile.layer_errors)
    axis.bar(layers, errors, color="#31688e")
    axis.axhline(errors.mean(), color="0.4", linewidth=1, linestyle="--", label="mean: a uniform budget")
    axis.set_xlabel("layer")
    axis.set_ylabel("share of the error")
    axis.set_title("layer error after compression to 32 tokens", fontsize=10)
    axis.margins(x=0.01)
    axis.legend(frameon=False, fontsize=8)
    _count(axis.xaxis, len(layers))


def _count(axis: Any, n: int) -> None:
    """Ticks at whole numbers, not more than fit."""
    step = 1 if n <= 12 else 2 if n <= 24 else 4 if n <= 48 else 8
    axis.set_ticks(range(0, n, step))
    axis.set_tick_params(labelsize=8)
