"""`compresskv calibrate` and `compresskv profile show|validate|plot`. `register` adds them to the app."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Optional, Union

import typer

from ...engine import logs
from ...method.budget import resolve_mean_budget
from ...model.facts import ModelFacts
from ...model.gguf_file import GGUF
from ...model.profile import Profile
from .options import MODEL, model_file

profile_app = typer.Typer(help="Look at a profile.", no_args_is_help=True, add_completion=False)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Profile: a .json file or the name of a shipped one.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("calibrate", epilog=_EXAMPLES)(calibrate_command)
    app.add_typer(profile_app, name="profile")


_EXAMPLES = (
    "Examples: `compresskv calibrate model.gguf -o profiles/model.json`, `compresskv calibrate model.gguf -o model.json"
    " --text books/ --needles facts.json --max-tokens 8192`. Needles are a JSON list of objects with sentence, question"
    " and answer, and perhaps kind."
)


def calibrate_command(
    model: Annotated[Path, typer.Argument(help=MODEL, callback=model_file)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the profile goes, a .json file.")],
    text: Annotated[
        Optional[Path], typer.Option(help="Folder of .txt files, or one, to hide needles in.", show_default="our own")
    ] = None,
    needles: Annotated[
        Optional[str], typer.Option(help="JSON file of needles, or general, or demo.", show_default="our own")
    ] = None,
    max_tokens: Annotated[
        Optional[int], typer.Option(min=128, help="Longest prompt; lengths are spread up to it.", show_default="2048")
    ] = None,
    documents: Annotated[
        Optional[int], typer.Option(min=1, help="Documents; each is asked five questions, or eight.", show_default="8")
    ] = None,
    curves: Annotated[
        bool,
        typer.Option("--curves", help="Also error curves, which kv_policy='edge' needs: takes about twice as long."),
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="10 documents of up to 3072 tokens, eight questions each.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same profile, to the byte.")] = 0,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.", show_default="one a core")] = None,
    gpu_layers: Annotated[int, typer.Option(help="Layers on the GPU, as in llama.cpp; -1: all.")] = 0,
    chat: Annotated[bool, typer.Option(help="Use the chat template of the GGUF if it has one.")] = True,
    allow_uncalibrated: Annotated[
        bool, typer.Option("--allow-uncalibrated", help="Exit with 0 even if the model never finds the needle.")
    ] = False,
) -> None:
    """Measure a profile: which heads retrieve, and what compression costs each layer.

    Stopped with Ctrl-C, the same command goes on where it was.
    """
    from ...calibration import calibrate
    from ...calibration.progress import bar

    if output.suffix != ".json":
        raise typer.BadParameter(f"{str(output)!r} does not end in .json", param_hint="--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    state = output.with_name(f".{output.stem}.state.npz")
    logs.route_llama_cpp()
    plan = _plan(model, max_tokens, documents, thorough, seed, curves)
    try:
        with bar("calibrate") as report:
            profile = calibrate(
                model, plan=plan, text=text, needles=needles, n_threads=threads, use_chat=chat,
                llama_options={"n_gpu_layers": gpu_layers}, state_path=state, report=report,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("compresskv: stopped; the same command goes on where it was", err=True)
        raise typer.Exit(130) from None
    profile.save(output)
    _finish(profile, output, allow_uncalibrated)


def _plan(
    model: Path, max_tokens: Optional[int], documents: Optional[int], thorough: bool, seed: int, curves: bool
) -> Any:
    from ...calibration import QUICK, THOROUGH, fit_to_context

    plan = dataclasses.replace(THOROUGH if thorough else QUICK, seed=seed)
    if documents is not None:
        plan = dataclasses.replace(plan, n_documents=documents, n_error_documents=documents // 2)
    if curves:
        plan = dataclasses.replace(plan, n_curve_documents=(plan.n_error_documents + 1) // 2)
    if max_tokens is None:
        return fit_to_context(plan, model)
    return dataclasses.replace(plan, max_tokens=max_tokens, min_tokens=min(plan.min_tokens, max_tokens))


def _finish(profile: Profile, output: Path, allow_uncalibrated: bool) -> None:
    found = profile.calibration
    if found is None or found.heads_calibrated:
        counted = "" if found is None else f", {found.n_counted} of {found.n_prompts} needles found"
        typer.echo(f"wrote {output}{counted}")
        return
    typer.echo(f"wrote {output}, with uncalibrated heads", err=True)
    typer.echo(f"compresskv: {found.reason}", err=True)
    if not allow_uncalibrated:
        raise typer.Exit(1)


@profile_app.command(
    "show", epilog="Examples: `compresskv profile show demo`, `compresskv profile show mine.json --budget 0.1`."
)
def show_command(
    name: _Name,
    budget: Annotated[
        Optional[str],
        typer.Option(metavar="TOKENS|FRACTION", help="Mean budget: 256 or 0.1.", show_default="the profile's default"),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt that a fraction is of.")] = 4096,
    heads: Annotated[int, typer.Option(min=1, help="Heads of each layer to show.")] = 4,
) -> None:
    """The heads of each layer with their scores, its error and its budget."""
    from rich.console import Console

    profile = Profile.load(name)
    dial: Union[int, float] = profile.default_budget if budget is None else _dial(budget)
    mean = resolve_mean_budget(dial, tokens, window=profile.settings.window)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table(profile, mean, heads))
    for line in _facts(profile, mean, tokens, dial):
        console.print(line, highlight=False, markup=False)


def _dial(text: str) -> Union[int, float]:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of tokens nor a fraction of the prompt") from None


def _table(profile: Profile, mean_budget: int, n_heads: int) -> Any:
    from rich.table import Table

    columns = _head_columns(profile, n_heads)
    table = Table(title=profile.model.name or None)
    for title in ("layer", *columns, "error", "tokens"):
        table.add_column(title, justify="left" if title.startswith("heads") else "right")
    budgets = profile.budgets(mean_budget)
    for layer, error in enumerate(profile.layer_errors):
        cells = (column[layer] for column in columns.values())
        table.add_row(str(layer), *cells, f"{error:.4f}", str(budgets[layer]))
    return table


def _head_columns(profile: Profile, n_heads: int) -> dict[str, list[str]]:
    """The best heads of each layer; where they were measured one below the other, with the scores' standard error."""
    heads, c = [ranking[:n_heads] for ranking in profile.heads_ranked], profile.calibration
    if c is None or not c.heads_calibrated:
        return {"heads, best first": [" ".join(map(str, ranking)) for ranking in heads]}
    rows = list(zip(heads, c.semantic_scores, c.semantic_spread, c.classic_scores))
    scale = c.n_counted**0.5
    return {
        "head": ["\n".join(map(str, ranking)) for ranking in heads],
        "semantic score": [
            "\n".join(f"{mean[h]:.3f} ± {spread[h] / scale:.3f}" for h in ranking) for ranking, mean, spread, _ in rows
        ],
        "classic": ["\n".join(f"{copied[h]:.3f}" for h in ranking) for ranking, _, _, copied in rows],
    }


def _facts(profile: Profile, mean: int, tokens: int, dial: Union[int, float]) -> list[str]:
    dial_text = f"{dial:g} of a prompt of {tokens} tokens" if isinstance(dial, float) else "tokens"
    lines = [f"budget: {mean} tokens a layer on average ({dial_text})", f"measured: {profile.provenance.how}"]
    lines.append(f"text: {profile.provenance.text}")
    if profile.calibration is not None:
        c = profile.calibration
        lines.append(f"model: {c.tensor_hash}")
        lines.append(f"needles found: {c.n_counted} of {c.n_prompts}" + (f"; {c.reason}" if c.reason else ""))
    return [*lines, *profile.provenance.remarks]


@profile_app.command("validate", epilog="Example: `compresskv profile validate mine.json --model model.gguf`.")
def validate_command(
    name: _Name,
    model: Annotated[
        Optional[Path], typer.Option(help=f"The profile must fit it. {MODEL}", callback=model_file)
    ] = None,
) -> None:
    """Check a profile, and that it fits a model. Exit status 1 if not."""
    profile = Profile.load(name)
    said = f"{name}: valid"
    if model is not None:
        profile.check(ModelFacts.from_gguf(model))
        said += f", fits {model.name}{_identity(profile, model)}"
    typer.echo(said)


def _identity(profile: Profile, model: Path) -> str:
    if profile.calibration is None:
        return " by its shape"
    if profile.calibration.tensor_hash == GGUF.open(model).hash():
        return ", the file that it was measured on"
    return " by its shape, but was measured on another file or quantisation"


@profile_app.command("plot", epilog="Example: `compresskv profile plot mine.json -o mine.png`.")
def plot_command(
    name: _Name,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="The picture, a .png file.", show_default="NAME.png")
    ] = None,
) -> None:
    """Write a picture: heat maps of the heads' scores, bars of the layers' errors."""
    from ...calibration.plot import plot_profile

    target = output or Path(f"{Path(name).stem}.png")
    if target.suffix != ".png":
        raise typer.BadParameter(f"{str(target)!r} does not end in .png", param_hint="--output")
    plot_profile(Profile.load(name), target)
    typer.echo(f"wrote {target}")
