"""Profiles: ProfileError, or a profile that spreads a budget, can be written and is read back as it was."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import mutate  # noqa: E402
import runner  # noqa: E402

from compresskv_edge.errors import BudgetError, ProfileError  # noqa: E402
from compresskv_edge.model.profile import Profile  # noqa: E402

_SHIPPED = [json.loads(Profile.load(name).to_json()) for name in ("demo", "llama-3.1-8b-instruct")]
_TEXTS = [json.dumps(profile).encode() for profile in _SHIPPED]
_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_PATH = Path(_FOLDER.name) / "p.json"


def one(rng: random.Random) -> str:
    try:
        if rng.random() < 0.3:
            _PATH.write_bytes(mutate.data(rng, rng.choice(_TEXTS)))
            profile = Profile.load(_PATH)
        elif isinstance(data := mutate.json_value(rng, rng.choice(_SHIPPED)), dict):
            profile = Profile.load(data)
        else:
            _PATH.write_text(json.dumps(data))
            profile = Profile.load(_PATH)
    except ProfileError:
        return "refused"
    try:
        assert len(profile.budgets(1 + rng.randrange(1000))) == profile.model.n_layer
        assert len(profile.heads_used()) == profile.model.n_layer
    except BudgetError:
        return "no budget"
    assert Profile.load(json.loads(profile.to_json())) == profile
    return "read"


FUZZER = runner.Fuzzer(one)

if __name__ == "__main__":
    runner.main(FUZZER)
