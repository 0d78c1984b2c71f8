"""The figures of docs/, from the engine and the shipped profiles: python tools/figures.py [FOLDER]

Nothing in them is drawn by hand: tokens kept are those of one run of the demo model, sizes follow from models' shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from compresskv_edge import Llama, Profile
from compresskv_edge.evaluate import needle
from compresskv_edge.model.packaged import model_path

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
STOCK, PREFIX, TAIL, FACT = "#9a9a9a", "#1f5fa8", "#e08e2b", "#c8413b"
GIB = 1 << 30

matplotlib.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "compresskv", "axes.grid": False})


def main(folder: Path = FOLDER) -> list[Path]:
    """Write all figures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run()
    figures = {
        "kept.png": kept(run),
        "rows.svg": rows(run),
        "budgets.svg": budgets(),
        "memory.svg": memory(),
    }
    for name, figure in figures.items():
        metadata = {"Date": None} if name.endswith("svg") else None
        figure.savefig(folder / name, dpi=110, metadata=metadata, facecolor="white")
    return [folder / name for name in figures]


class Run:
    """A document with one fact in its middle and a question behind it, compressed to 6 %."""

    def __init__(self) -> None:
        llm = Llama(
            model_path(), kv_profile="auto", kv_budget=0.06, n_ctx=4096, n_threads=1, n_threads_batch=1, verbose=False
        )
        prompt = needle.make_prompt(1, needle.token_counter(llm), n_context=3500, depth=0.5)
        llm(prompt.text, max_tokens=1, temperature=0)
        before, fact, _ = prompt.text.partition(prompt.sentence)
        self.n_tokens = llm.n_tokens
        self.fact = tuple(len(llm.tokenize(text.encode())) for text in (before, before + fact))
        self.kept = [llm.kv_kept(layer) for layer in range(len(llm.kv_stats().n_tokens_kept))]


def kept(run: Run) -> Figure:
    """Positions that each layer kept."""
    figure, axes = _figure(7.2, 2.3)
    axes.axvspan(*run.fact, color=FACT, alpha=0.25, lw=0)
    axes.eventplot(run.kept, colors=PREFIX, linelengths=0.75, linewidths=0.6)
    axes.set(
        xlabel="position in the prompt (shaded: the sentence that answers)", ylabel="layer", xlim=(0, run.n_tokens)
    )
    axes.set_yticks(range(len(run.kept)))
    axes.invert_yaxis()
    return figure


def rows(run: Run, window: int = 8, tail: int = 512) -> Figure:
    """Rows of each layer's K and V tensors after a compression."""
    figure, axes = _figure(7.2, 2.3)
    layers = range(len(run.kept))
    prefix = [len(each) - window for each in run.kept]
    axes.barh(layers, prefix, color=PREFIX, label="frozen prefix: tokens this layer kept")
    axes.barh(
        layers, [tail] * len(run.kept), left=prefix, color=TAIL, label="live tail: 8 of the window, then new tokens"
    )
    axes.axvline(run.n_tokens, color=STOCK, ls="--", lw=1.2)
    axes.text(run.n_tokens - 30, 2, "the prompt", rotation=90, ha="right", va="center", color="#555555")
    axes.set(xlabel="rows (tokens)", ylabel="layer", yticks=list(layers))
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def budgets(name: str = "llama-3.1-8b-instruct", means: Sequence[int] = (256, 1024)) -> Figure:
    """How a mean budget is spread over the layers."""
    figure, axes = _figure(7.2, 2.5)
    profile = Profile.load(name)
    layers = np.arange(profile.model.n_layer)
    for mean, color, shift in zip(means, (TAIL, PREFIX), (-0.2, 0.2)):
        axes.bar(layers + shift, profile.budgets(mean), width=0.4, color=color, label=f"{mean} tokens on average")
    axes.set(xlabel=f"layer of {name}", ylabel="tokens kept", xlim=(-0.7, len(layers) - 0.3))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def memory(name: str = "llama-3.1-8b-instruct", budget: int = 1024, tail: int = 512) -> Figure:
    """KV bytes by context, f16: stock, and compressed while reading and after it."""
    figure, axes = _figure(7.2, 2.8)
    model = Profile.load(name).model
    per_layer = np.broadcast_to(model.n_head_kv, model.n_layer) * np.broadcast_to(model.head_dim, model.n_layer)
    bytes_per_token = 2 * 2 * int(per_layer.sum())  # K and V, two bytes each
    contexts = np.array([1, 2, 4, 8, 16, 32, 64, 128]) * 1024
    axes.plot(
        contexts, contexts * bytes_per_token / GIB, "o-", color=STOCK, label="stock, or a full prefill until its end"
    )
    bounded = np.minimum(contexts, budget + tail) * bytes_per_token / GIB
    axes.plot(contexts, bounded, "o-", color=PREFIX, label=f"{budget} tokens a layer and a tail of {tail}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(contexts, [f"{each // 1024}k" for each in contexts])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} GiB" if value >= 1 else f"{value * 1024:g} MiB")
    axes.set(xlabel=f"tokens in the context of {name}", ylabel="KV cache, f16")
    axes.legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    """Inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


if __name__ == "__main__":
    for path in main(*map(Path, sys.argv[1:2])):
        print(path)
