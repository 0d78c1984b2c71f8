"""`compresskv bench`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Optional, cast, get_args

import typer

from ...engine import logs
from ...files import write_json
from ...model import random_gguf
from ...model.kv_types import KV_TYPES
from ...model.profile import Profile
from ..bench import grid as bench_grid
from ..bench.result import BenchPlan, checks, table
from .options import MODEL, counts, kinds, model_file, names, numbers, one_of, progress, show, writable

QUANTS = get_args(random_gguf.Quant)
_EXAMPLES = (
    "Examples: `compresskv bench model.gguf` measures your model,"
    " `compresskv bench --shape qwen2.5-0.5b --json out.json` a random one of that shape,"
    " `compresskv bench model.gguf --gpu-layers -1 --prompt-tokens 32768,131072 --budget 512,1024,2048"
    " --against q8_0,q4_0` long prompts on a GPU, against quantised caches."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("bench", epilog=_EXAMPLES)(bench_command)


def bench_command(
    model: Annotated[
        Optional[Path], typer.Argument(help=f"{MODEL} Without it, a random model of --shape.", callback=model_file)
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Shape of the random model.", **one_of(tuple(random_gguf.SHAPES)))
    ] = "qwen2.5-0.5b",
    quant: Annotated[str, typer.Option(help="Type of the random model's matrices.", **one_of(QUANTS))] = "Q4_0",
    prompt_tokens: Annotated[
        str, typer.Option(help="Length of the prompt; several: one run for each.", **counts(16))
    ] = str(BenchPlan.prompt_tokens),
    budget: Annotated[
        str, typer.Option(help="Tokens a layer keeps, on average; several: one run for each.", **counts(1))
    ] = str(BenchPlan.budget_tokens),
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded a repeat.")] = BenchPlan.decode_tokens,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the decoding.")] = BenchPlan.repeats,
    prefill_repeats: Annotated[
        int, typer.Option(min=1, help="Repeats of the prefill and the eviction.")
    ] = BenchPlan.prefill_repeats,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.", show_default="one a core")] = None,
    type_k: Annotated[str, typer.Option(help="Type of the cached keys.", **one_of(KV_TYPES))] = "f16",
    type_v: Annotated[str, typer.Option(help="Type of the cached values.", **one_of(KV_TYPES))] = "f16",
    tail: Annotated[int, typer.Option(min=16, help="Rows beside the budget, for new tokens.")] = BenchPlan.tail_tokens,
    against: Annotated[
        str, typer.Option(help="Measure llama.cpp's cache in these types as well.", **kinds(KV_TYPES))
    ] = "",
    gpu_layers: Annotated[int, typer.Option(help="Layers on the GPU, as in llama.cpp; -1: all.")] = 0,
    rpc_servers: Annotated[
        Optional[str],
        typer.Option(
            metavar="HOST:PORT,...", help="Machines that take layers (with --gpu-layers).", show_default="none"
        ),
    ] = None,
    profile: Annotated[
        Optional[str], typer.Option(help="Profile: a file or a shipped name.", show_default="an uncalibrated one")
    ] = None,
    json_path: Annotated[
        Optional[Path],
        typer.Option("--json", dir_okay=False, callback=writable, help="Write every sample to this file."),
    ] = None,
    cache_dir: Annotated[
        Optional[Path], typer.Option(help="Keep the random model here.", show_default="a temporary folder")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
) -> None:
    """Measure stock and compressed side by side: prefill, eviction, decoding and memory."""
    common = BenchPlan(
        decode_tokens=decode_tokens, repeats=repeats, prefill_repeats=prefill_repeats, n_threads=threads,
        type_k=type_k, type_v=type_v, tail_tokens=tail, n_gpu_layers=gpu_layers, against=tuple(names(against)),
        rpc_servers=rpc_servers,
    )  # fmt: skip
    plans = bench_grid.plans(common, numbers(prompt_tokens), numbers(budget))
    loaded = None if profile is None else Profile.load(profile)

    from ..bench import run as bench

    logs.route_llama_cpp()
    with _model(model, shape, quant, cache_dir) as path, progress(sum(plan.n_steps for plan in plans)) as step:
        results = bench.run_all(path, plans, loaded, step)
    for result in results:
        show(table(result))
    if len(results) > 1:
        show(bench_grid.table(results))
    if json_path is not None:
        write_json(json_path, bench_grid.to_dict(results))
    if check and not all(each.met for result in results for each in checks(result)):
        raise typer.Exit(1)


@contextlib.contextmanager
def _model(path: Optional[Path], shape: str, quant: str, cache_dir: Optional[Path]) -> Iterator[Path]:
    """The given file, or a random model that lives as long as the block unless it is cached."""
    if path is not None:
        yield path
        return

    from ..bench.contexts import write_model

    with contextlib.ExitStack() as stack:
        folder = cache_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compresskv-")))
        yield write_model(shape, cast(random_gguf.Quant, quant), folder)
