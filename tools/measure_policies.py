"""All that docs/results.md says about policies on one of our models: `make results`.

    python tools/measure_policies.py demo|judge [SUITE ...] [--ablation] [--out build/results]

Runs `compresskv eval` for each suite on one thread; what was stopped goes on, and what is finished is read from the
journals in --out. The tables go to docs/results, those of --ablation (edge less one part each) to its folder ablation.
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
SEED = "3"  # of prompts that were not looked at while anything was chosen
ABLATION: Dict[str, List[str]] = {
    "niah": [],
    "kv": [],
    "qa": [],
    "ruler": [],
    "multi-turn": ["--depths", "6"],
    "fidelity": [],
}
PARTS = [
    "--policies",
    "edge,edge:later_share=0,edge:first=0,edge:first=8,edge:budgets=errors,edge:budgets=equal,edge:least=8,edge+merge,"
    "compresskv,cake,keydiff",
    *("--base", "edge", "--budgets", "0.007,0.015,0.03,0.06", "--contexts", "1024,2048"),
    *("--seed", "2"),  # what is kept of edge is decided on these prompts
]
_TAIL = "32"  # rows for new tokens: small, so that the bytes of a cache say something about the policy


def main() -> None:
    """Run the suites one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; none: all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results", help="folder of the journals")
    parser.add_argument("--ablation", action="store_true", help="the parts of edge, one by one")
    args = parser.parse_args()
    known = ABLATION if args.ablation else SUITES
    unknown = [name for name in args.suites if name not in known]
    if unknown:
        parser.error(f"suite is {unknown[0]!r}: use {', '.join(known)}")
    for suite in args.suites or known:
        if args.ablation:
            run(args.model, [suite, *PARTS, *ABLATION[suite]], args.out / "ablation", RESULTS / "ablation", suite)
        else:
            options = ["--policies", POLICIES, "--seed", SEED]  # those of the suite come later, and win
            name, *own = SUITES[suite]
            run(args.model, [name, *options, *own], args.out / suite, RESULTS, suite)


def run(model: str, suite: List[str], out: Path, results: Path, stem: str) -> None:
    """One suite with its options: its table is copied to `results` as STEM-MODEL.json."""
    gguf, profile = MODELS[model]
    name, *options = suite
    command = [sys.executable, "-m", "compresskv_edge", "eval", name, str(gguf), "--profile", profile]
    common = ["--budgets", BUDGETS, "--tail", _TAIL, "--out", str(out)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *common, *options], env=environment, check=True)
    results.mkdir(exist_ok=True)
    shutil.copy(out / f"{name}-{gguf.stem}.json", results / f"{stem}-{gguf.stem}.json")


if __name__ == "__main__":
    main()
