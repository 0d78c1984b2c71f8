"""From nothing to the demo model's GGUFs: `python tools/models/build.py DIR`; stopped, the same command goes on.

DIR gets the prose, the tokenizer, checkpoints (last.pt, and one a phase) and demo-{f32,f16,q8_0}.gguf. Needs torch,
numpy, tokenizers and gguf, and about an hour and a half of two idle CPU cores. On machines where page faults are dear,
preloading jemalloc (MALLOC_CONF="dirty_decay_ms:-1,muzzy_decay_ms:-1") and OMP_WAIT_POLICY=PASSIVE double the speed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import export
import prepare
import torch
import train

NAME = "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if not (a.directory / "tokenizer.json").exists():
        prepare.main(a.directory)
    train.start_or_go_on(a.directory).train()
    export.main(a.directory / "last.pt", a.directory, NAME)


if __name__ == "__main__":
    main()
