"""GGUF headers: UnsupportedModelError, or facts, sizes, a hash and weights that can be read."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import gguf_bytes  # noqa: E402
import mutate  # noqa: E402
import runner  # noqa: E402

from compresskv_edge.errors import UnsupportedModelError  # noqa: E402
from compresskv_edge.model.facts import ModelFacts  # noqa: E402
from compresskv_edge.model.gguf_file import GGUF  # noqa: E402
from compresskv_edge.model.profile import Profile  # noqa: E402
from compresskv_edge.model.sizes import ModelSizes  # noqa: E402

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_PATH = Path(_FOLDER.name) / "m.gguf"
_SPLIT = Path(_FOLDER.name) / "m-00001-of-00002.gguf"

_HEADER = gguf_bytes.gguf(gguf_bytes.MODEL, gguf_bytes.TENSORS)
_N_HEADER = len(_HEADER)


def one(rng: random.Random) -> str:
    path = _SPLIT if rng.random() < 0.02 else _PATH
    path.write_bytes(mutate.data(rng, _HEADER + gguf_bytes.DATA, n_special=_N_HEADER))
    try:
        file = GGUF.open(path)
        for name in list(file.tensors)[: rng.randrange(3)]:
            assert file.find(name) is not None
        assert file.hash().startswith("sha256:")
    except UnsupportedModelError:
        return "refused"
    try:
        facts = ModelFacts.from_gguf(path)
        assert len(Profile.uniform(path).heads_ranked) == facts.n_layer
        assert ModelSizes.from_gguf(path).n_layer == facts.n_layer
    except UnsupportedModelError:
        return "no decoder"
    return "read"


FUZZER = runner.Fuzzer(one)

if __name__ == "__main__":
    runner.main(FUZZER)
