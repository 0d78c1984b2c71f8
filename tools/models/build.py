"""From nothing to GGUFs: `python tools/models/build.py demo|judge DIR`; stopped, the same command goes on.

DIR gets the prose, the tokenizer, checkpoints (last.pt, and one a phase) and NAME-{f32,f16,q8_0}.gguf. Needs torch,
numpy, tokenizers and gguf; for the prose npm, apt-get and dpkg-deb, or its packages in DIR/downloads. Hours of two CPU
cores: docs/models.md. `make models` builds both side by side, with an allocator that keeps its pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import export
import prepare
import torch
import train
from specs import SPECS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SPECS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if not (a.directory / "tokenizer.json").exists():
        prepare.main(SPECS[a.name], a.directory)
    train.start_or_go_on(SPECS[a.name], a.directory).train()
    export.main(a.directory / "last.pt", a.directory)


if __name__ == "__main__":
    main()
