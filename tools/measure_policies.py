"""All that docs/results.md says about policies on one of our models: `make results`.

    python tools/measure_policies.py demo|judge [SUITE ...] [--out build/results]

Runs `compresskv eval` for each suite on one thread; what was stopped goes on, and what is finished is read from the
journals in --out. The tables go to docs/results. With other policies or repeats only those are run.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"

MODELS: Dict[str, Tuple[Path, str]] = {
    "demo": (ROOT / "compresskv_edge" / "models" / "demo-q8_0.gguf", "demo"),
    "judge": (ROOT / "tests" / "models" / "judge-q8_0.gguf", str(ROOT / "tests" / "models" / "judge.json")),
}
POLICIES = "compresskv,edge,snapkv,pyramidkv,cake,streaming_llm"
BUDGETS = "0.007,0.015,0.03,0.06,0.12"
SUITES: Dict[str, List[str]] = {  # by the name of the file: the suite and its options
    "niah": ["niah", "--contexts", "1024,2048,4096", "--repeats", "3"],
    "multi-turn": ["multi-turn", "--contexts", "1024,2048"],
    "multi-turn-protected": [
        *("multi-turn", "--contexts", "1024", "--tasks", "system_form,system_fact", "--protect-system"),
    ],
    "qa": ["qa", "--contexts", "1024,2048", "--repeats", "3"],
    "kv": ["kv", "--contexts", "1024,2048", "--repeats", "3"],
    "ruler": ["ruler", "--contexts", "1024,2048", "--repeats", "3"],
    "fidelity": ["fidelity", "--contexts", "1024,2048"],
    "niah-all": ["niah", "--contexts", "1024,2048", "--policies", "all"],
}
_TAIL = "32"  # rows for new tokens: small, so that the bytes of a cache say something about the policy


def main() -> None:
    """Run the suites one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; none: all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results", help="folder of the journals")
    parser.add_argument("--policies", default=POLICIES, help="of all suites but niah-all")
    args = parser.parse_args()
    unknown = [name for name in args.suites if name not in SUITES]
    if unknown:
        parser.error(f"suite is {unknown[0]!r}: use {', '.join(SUITES)}")
    for suite in args.suites or SUITES:
        run(args.model, suite, args.out, args.policies)


def run(model: str, suite: str, out: Path, policies: str) -> None:
    """One suite: its table is copied to docs/results as SUITE-MODEL.json."""
    gguf, profile = MODELS[model]
    name, *own = SUITES[suite]
    folder = out / suite
    command = [sys.executable, "-m", "compresskv_edge", "eval", name, str(gguf), "--profile", profile]
    options = ["--policies", policies, "--budgets", BUDGETS, "--tail", _TAIL, "--out", str(folder)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *options, *own], env=environment, check=True)
    shutil.copy(folder / f"{name}-{gguf.stem}.json", RESULTS / f"{suite}-{gguf.stem}.json")


if __name__ == "__main__":
    main()
