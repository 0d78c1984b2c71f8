"""`compresskv doctor`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import doctor
from .options import MODEL, model_file
from .plan import size

_EXAMPLES = (
    "Examples: `compresskv doctor`, `compresskv doctor model.gguf --budget 1024`, `compresskv doctor --json`."
    " Exit status 1 if the library cannot be used."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("doctor", epilog=_EXAMPLES)(doctor_command)


def doctor_command(
    model: Annotated[
        Optional[Path], typer.Argument(help=f"{MODEL} Says what of it fits the free memory.", callback=model_file)
    ] = None,
    budget: Annotated[int, typer.Option(min=9, help="Tokens a layer keeps, on average.")] = doctor.BUDGET,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
) -> None:
    """What this machine and this build can do: CPU, backends, memory, longest contexts."""
    report = doctor.examine(model, budget)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        for name, value in _lines(report):
            typer.echo(f"{name:<10} {value}".rstrip())
    if report.build is None:
        raise typer.Exit(1)


def _lines(report: doctor.Report) -> Iterator[tuple[str, str]]:
    yield "version", f"compresskv-edge {report.compresskv_edge}, Python {report.python}, {report.system}"
    yield "cpu", f"{report.cpu}, {report.cores} cores"
    if report.build is not None:
        yield from _build_lines(report.build)
    yield "memory", f"{size(report.memory_free)} free of {size(report.memory_total)}"
    if report.model is not None:
        yield from _model_lines(report.model)
    for problem in report.problems:
        yield "problem", problem
    if not report.problems:
        yield "result", "no problem found"


def _build_lines(build: doctor.Build) -> Iterator[tuple[str, str]]:
    yield "library", build.version.partition(" header ")[0]
    yield "", build.folder
    yield "features", " ".join(build.cpu_features)
    for n, device in enumerate(build.devices):
        memory = f", {size(device.memory_free)} free of {size(device.memory_total)}" if device.memory_total else ""
        yield "backends" if n == 0 else "", f"{device.name} ({device.kind}): {device.description}{memory}"


def _model_lines(model: doctor.ModelReport) -> Iterator[tuple[str, str]]:
    yield "model", f"{model.name}: weights {size(model.weights_bytes)}, trained for {model.n_ctx_train} tokens"
    profiles = {
        "shipped": "shipped with the package",
        "calibrated": "calibrated on this machine",
        "none": "none yet: the first `--profile auto` measures one in about three minutes",
    }
    yield "profile", profiles[model.profile]
    yield "contexts", f"stock llama.cpp, f16 cache: {model.context_stock} tokens"
    yield "", f"{model.budget} tokens a layer: {model.context_compressed} tokens, prompts read in bounded memory"
    yield (
        "",
        f"{'':<{len(str(model.budget))}} with the whole prompt in memory first: {model.context_full_prefill} tokens",
    )
