"""The cards of the shipped profiles that were measured here: `python -m compresskv_edge.calibration.cards` writes them.

docs/profile-cards.md is made from profiles/*.json and docs/results/calibration-runs.json (what each run took), with the
pictures of `compresskv profile plot`. Run it in the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replace_text
from ..model.measurement import Calibration
from ..model.profile import Profile
from .plot import plot_profile

PAGE, FIGURES, RUNS = Path("docs/profile-cards.md"), Path("docs/cards"), Path("docs/results/calibration-runs.json")
_N_BEST = 6

_HEAD = """# Profile cards

What `compresskv calibrate` measured on the models of the [catalogue](pull.md), from the shipped files themselves
(`python -m compresskv_edge.calibration.cards` writes this page). How it is measured: [Profiles](profiles.md).

*Stability*: the calibration's questions in two halves that share no needle. Rank correlation is Spearman's over all
heads; heads in common are those that both halves would choose; the layer errors of the two halves of documents, which
sum to 1, differ by what is said at most. *CPU time* is that of the whole run, and other work was on the machine.
"""


def page(runs: Mapping[str, Any]) -> str:
    """The cards of all profiles with a run: runs is what RUNS holds, by name."""
    return "\n".join([_HEAD, *(card(name, Profile.load(name), run) for name, run in sorted(runs.items()))])


def card(name: str, profile: Profile, run: Mapping[str, Any]) -> str:
    """One profile, as Markdown."""
    rows = [f"| {title} | {text} |" for title, text in _rows(profile, run)]
    picture = f"![Scores of all heads and errors of all layers of {profile.model.name}](cards/{name}.png)"
    return "\n".join([f"## {name}", "", picture, "", "| | |", "| -- | -- |", *rows, ""])


def _rows(profile: Profile, run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, c = profile.model, profile.calibration
    assert c is not None, "only measured profiles have a run"
    yield "model", f"{model.name}, {model.architecture}, {model.n_layer} layers; `{c.tensor_hash}`"
    yield "needles found", f"{c.n_counted} of {c.n_prompts}" + (f"; {c.reason}" if c.reason else "")
    yield "best heads (layer, head)", _best(c)
    yield "layers with the largest errors", _largest(profile)
    if profile.error_curves is not None:
        yield "error curves", f"at {', '.join(map(str, profile.error_curves.tokens))} tokens beside the window"
    yield "stability", _stability(c)
    yield "measured", f"{profile.provenance.how}"
    yield "text", profile.provenance.text
    for remark in profile.provenance.remarks:
        yield "remark", remark
    yield "CPU time", f"{run['cpu_seconds'] / 60:.0f} min, {run['threads']} thread, {run['cpu']}: `{run['command']}`"


def _best(c: Calibration) -> str:
    scores = np.nan_to_num(c.scores("semantic_scores"))
    order = np.argsort(-scores, axis=None, kind="stable")
    heads = [divmod(int(i), scores.shape[1]) for i in order[:_N_BEST]]
    n_heads = sum(map(len, c.semantic_scores))
    tenth = np.sort(scores, axis=None)[::-1][: n_heads // 10].sum() / scores.sum() if scores.any() else 0.0
    listed = ", ".join(f"({layer}, {head}) {scores[layer, head]:.2f}" for layer, head in heads)
    return f"{listed}; the top tenth of {n_heads} heads holds {tenth:.2f} of the score"


def _largest(profile: Profile) -> str:
    errors = np.asarray(profile.layer_errors)
    order = np.argsort(-errors, kind="stable")[:_N_BEST]
    return ", ".join(f"{layer}: {errors[layer]:.3f}" for layer in order if errors[layer])


def _stability(c: Calibration) -> str:
    s = c.stability
    if s is None:
        return "not known: a half has too few answers"
    first, second = s.n_counted
    return (
        f"halves of {first} and {second} answers: rank correlation {s.rank_correlation:.3f}, "
        f"{100 * s.shared_heads:.0f} % of the heads in common, layer errors within {s.error_difference:.3f}"
    )


def write(root: Path) -> None:
    """The page and its pictures, in a checkout."""
    runs = json.loads((root / RUNS).read_text(encoding="utf-8"))["runs"]
    for name in runs:
        plot_profile(Profile.load(name), root / FIGURES / f"{name}.png")
    replace_text(root / PAGE, page(runs))


if __name__ == "__main__":
    write(Path())
