"""Runs one fuzzer: python tests/fuzz/fuzz_x.py --seconds 60, or --runs 1000000, or --only N to see run N again.

Each run changes one of a few good inputs at random, knowing its structure, and gives the result to the code; an
exception that is not the promised one is a finding. Runs are numbered, and a number is all that is needed to repeat
one. With `native` the runs are in a process of their own, which may die: that is a finding too, and the next run
follows.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Counter, Optional

_COUNT = struct.Struct("<q")


@dataclass(frozen=True)
class Fuzzer:
    """`one(rng)` makes an input, gives it to the code and says in a word what became of it; it raises a finding."""

    one: Callable[[random.Random], str]
    native: bool = False  # may end the process


def run(
    fuzzer: Fuzzer, runs: Optional[int] = None, seconds: float = 1e9, seed: int = 0, first: int = 0
) -> Counter[str]:
    """Outcomes of runs first, first + 1, ... Raises at the first finding, with a note that names its number."""
    outcomes: Counter[str] = collections.Counter()
    end, i = time.monotonic() + seconds, first
    while (runs is None or i < runs) and time.monotonic() < end:
        try:
            outcomes[repeat(fuzzer, seed, i)] += 1
        except Exception as error:
            raise AssertionError(f"run {i} of seed {seed}: {error!r:.500}") from error
        i += 1
    return outcomes


def repeat(fuzzer: Fuzzer, seed: int, i: int) -> str:
    """Run number i."""
    return fuzzer.one(random.Random(seed << 40 | i))


def main(fuzzer: Fuzzer) -> None:
    """The command line. Ends with 1 if there were findings."""
    args = _arguments()
    if args.only is not None:
        print(repeat(fuzzer, args.seed, args.only))
        return
    started = time.monotonic()
    outcomes, findings = (_isolated if fuzzer.native and not args.count else _here)(fuzzer, args)
    n, seconds = sum(outcomes.values()), time.monotonic() - started
    said = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{Path(sys.argv[0]).stem}: {n} runs in {seconds:.0f} s, {memory} MB, {len(findings)} findings; {said}")
    for finding in findings:
        print(finding)
    sys.exit(bool(findings))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat this run")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=20, help="findings at most")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)  # of the process within: where it says its number
    args = parser.parse_args()
    if args.runs is None and args.seconds == 1e9 and args.only is None:
        args.seconds = 60
    return args


def _here(fuzzer: Fuzzer, args: Any) -> tuple[Counter[str], list[str]]:
    """All runs in this process."""
    outcomes: Counter[str] = collections.Counter()
    findings: list[str] = []
    end, i = time.monotonic() + args.seconds, args.first
    count = args.count.open("w+b", buffering=0) if args.count else None
    while (args.runs is None or i < args.runs) and time.monotonic() < end and len(findings) < args.most:
        if count is not None:
            count.seek(0)
            count.write(_COUNT.pack(i))
        try:
            outcomes[repeat(fuzzer, args.seed, i)] += 1
        except Exception:
            outcomes["FINDING"] += 1
            findings.append(f"--seed {args.seed} --only {i}\n{traceback.format_exc()}")
        i += 1
    return outcomes, findings


def _isolated(fuzzer: Fuzzer, args: Any) -> tuple[Counter[str], list[str]]:
    """All runs in processes that go on behind the run that ended the one before."""
    outcomes: Counter[str] = collections.Counter()
    findings: list[str] = []
    end, first = time.monotonic() + args.seconds, args.first
    with tempfile.NamedTemporaryFile() as count:
        while len(findings) < args.most and (args.runs is None or first < args.runs) and time.monotonic() < end:
            count.seek(0)
            count.write(_COUNT.pack(first))
            count.flush()
            done = subprocess.run(
                _command(args, first, end, count.name), capture_output=True, text=True, errors="replace"
            )
            at = _COUNT.unpack(Path(count.name).read_bytes()[:8])[0]
            if done.returncode in (0, 1):
                sys.stdout.write(done.stdout)
                outcomes["in one process, as above"] += at + 1 - first
                findings += ["as above"] * done.returncode
                break
            outcomes["before the process died"] += at + 1 - first
            findings.append(
                f"--seed {args.seed} --only {at} ended the process ({done.returncode})\n{done.stderr[-800:]}"
            )
            first = at + 1
    return outcomes, findings


def _command(args: Any, first: int, end: float, count: str) -> list[str]:
    runs = [] if args.runs is None else ["--runs", str(args.runs)]
    left = ["--seconds", str(max(end - time.monotonic(), 0.0))]
    numbers = ["--seed", str(args.seed), "--first", str(first), "--most", str(args.most)]
    return [sys.executable, sys.argv[0], *runs, *left, *numbers, "--count", count]
