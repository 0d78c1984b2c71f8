"""All that docs/results.md says about policies on real language models: `make results-real`.

    python tools/measure_real.py DATA [--only WORD] [--limit N] [--half report|tune] [--out build/results-real]

DATA holds altqa, qasper, nq and qmsum as .jsonl.gz in its folder real/, and novels as .txt. Runs `compresskv eval` on
one thread, what matters most first: a few prompts of everything, then more. It can be stopped at any moment and goes on
in the journals of --out. Tables and what the prompts came to, without answers, go to docs/results/real.

What is reported comes from seed 2 and from every other row; --half tune is the other half, to choose by (no tables).
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "real"

QWEN, SMOLLM, GEMMA = "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct", "gemma-3-270m"
USUAL = "compresskv,ahead,edge,snapkv,cake,keydiff,streaming_llm"
BUDGETS = "64,128,256,512"
HALVES: Dict[str, List[str]] = {"report": ["--seed", "2"], "tune": ["--seed", "1"]}
ROWS = {"report": "odd", "tune": "even"}
_TAIL = "64"  # rows for new tokens: more than an answer has, so that nothing is evicted while one is compared
_DROPPED = ("by_task", "by_depth", "heat")  # of a table: they can be had from the prompts


@dataclass(frozen=True)
class Run:
    """A suite on a model; `name` is that of its files. data: a file of real/, or "novels"."""

    name: str
    model: str
    suite: str
    data: str
    options: Tuple[str, ...] = ()
    policies: str = USUAL
    budgets: str = BUDGETS


def _needles(model: str, n: int, name: str = "needles", **other: str) -> Run:
    options = ("--contexts", str(n), "--questions", "5", "--depths", "11", "--repeats", "2")
    return Run(f"{name}-{n}-{model}", model, "niah", "novels", options, **other)


def _asked(model: str, data: str, n: int, *options: str) -> Run:
    return Run(f"{data}-{n}-{model}", model, "qa", data, ("--contexts", str(n), *options))


STAGES: List[Tuple[int, Run]] = [  # (most prompts, run) in the order of what matters
    (15, _needles(QWEN, 2048)),
    (12, _asked(QWEN, "altqa", 2048)),
    (30, _needles(QWEN, 2048)),
    (30, _asked(QWEN, "altqa", 2048)),
    (60, _needles(QWEN, 2048)),
    (60, _asked(QWEN, "altqa", 2048)),
    (15, _needles(QWEN, 2048, "needles-all", policies="all", budgets="128,512")),
    (20, _asked(QWEN, "qmsum", 2048, "--answer-tokens", "48")),
    (20, _asked(QWEN, "qasper", 2048, "--answer-tokens", "48")),
    (20, _needles(SMOLLM, 2048)),
    (20, _asked(SMOLLM, "altqa", 2048)),
    (10, Run(f"fidelity-{SMOLLM}", SMOLLM, "fidelity", "novels", ("--contexts", "2048", "--decode-tokens", "64"))),
    (20, _needles(GEMMA, 2048)),
    (20, _needles(QWEN, 4096)),
    (24, _asked(QWEN, "altqa", 4096)),
    (110, _needles(QWEN, 2048)),
    (110, _asked(QWEN, "altqa", 2048)),
    (110, _needles(QWEN, 4096)),
    (110, _asked(QWEN, "altqa", 4096)),
    (110, _asked(QWEN, "qmsum", 2048, "--answer-tokens", "48")),
    (110, _asked(QWEN, "qasper", 2048, "--answer-tokens", "48")),
    (110, _asked(QWEN, "nq", 4096)),
    (20, _needles(QWEN, 8192)),
]


def main() -> None:
    """Run the stages one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of novels (.txt) with the questions in real/")
    parser.add_argument("--only", default="", help="runs whose name holds this word")
    parser.add_argument("--limit", type=int, default=1000, help="most prompts of a run")
    parser.add_argument("--half", choices=HALVES, default="report")
    parser.add_argument("--policies", help=f"in place of the usual ones, {USUAL}")
    parser.add_argument("--budgets", help=f"in place of {BUDGETS}, for a part that is filled up later")
    parser.add_argument("--profiles", type=Path, help="folder of MODEL.json in place of the shipped profiles")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results-real", help="folder of the journals")
    args = parser.parse_args()
    found = [(min(n, args.limit), run) for n, run in STAGES if args.only in run.name]
    if not found:
        parser.error(f"no run is named {args.only!r}: there are {', '.join(sorted({run.name for _, run in STAGES}))}")
    for limit, run in found:
        if run.policies == USUAL:
            run = replace(run, policies=args.policies or run.policies, budgets=args.budgets or run.budgets)
        profile = str(args.profiles / f"{run.model}.json") if args.profiles else "auto"
        measure(run, profile, args.data, args.half, limit, args.out / args.half)


def measure(run: Run, profile: str, data: Path, half: str, limit: int, out: Path) -> None:
    """One run, and its table if it is to be reported."""
    folder = out / run.name
    command = [sys.executable, "-m", "compresskv_edge", "eval", run.suite, run.model, "--profile", profile]
    states = ["--states", str(out / "states")]
    common = ["--policies", run.policies, "--budgets", run.budgets, "--tail", _TAIL, "--limit", str(limit)]
    text = data if run.data == "novels" else data / "real" / f"{run.data}.jsonl.gz"
    source = ["--haystack" if run.suite == "niah" else "--data", str(text)]
    rows = ["--rows", ROWS[half]] if run.suite == "qa" else []
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    arguments = [*command, *common, *HALVES[half], *source, *rows, *run.options, *states, "--out", str(folder)]
    subprocess.run(arguments, env=environment, check=True)
    if half == "report":
        (table,), (journal,) = folder.glob("*.json"), folder.glob("*.jsonl")
        store(table, journal, run.name)


def store(table: Path, journal: Path, name: str) -> None:
    """The table without its splits, and a line for each prompt, policy and budget of it, gzipped."""
    summary = json.loads(table.read_text(encoding="utf-8"))
    kept = {key: value for key, value in summary.items() if key not in _DROPPED}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(_lines(kept), encoding="utf-8")
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in prompts(journal))
    (RESULTS / f"{name}.prompts.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def prompts(journal: Path) -> Iterator[List[Any]]:
    """[sample, policy, budget, score, tokens kept, extra measures] of each outcome."""
    lines = journal.read_text(encoding="utf-8").splitlines()[1:]
    for outcome in map(json.loads, lines):
        (score, *_) = outcome["scores"]
        extra = {name: round(value, 4) for name, value in score["extra"].items()}
        yield [*(outcome[key] for key in ("sample", "policy", "budget")), score["score"], outcome["n_kept"], extra]


def _lines(summary: Dict[str, Any]) -> str:
    from compresskv_edge.evaluate.summary import to_json

    return to_json(summary)


if __name__ == "__main__":
    main()
