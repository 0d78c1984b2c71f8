"""Session files, every digest right: SessionError, or a session that an instance goes on from.

Header, parts, tokens, logits and the state are changed alike; a file that is read goes into a loaded model, which
decodes and compresses what it found. What the class method would load is looked at, not loaded.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import forged  # noqa: E402
import mutate  # noqa: E402
import numpy as np  # noqa: E402
import runner  # noqa: E402

from compresskv_edge import Llama, Profile  # noqa: E402
from compresskv_edge.errors import BudgetError, SessionError  # noqa: E402
from compresskv_edge.model import random_gguf  # noqa: E402
from compresskv_edge.model.gguf_file import GGUF  # noqa: E402
from compresskv_edge.runtime.session import header, source, state  # noqa: E402
from compresskv_edge.runtime.session.options import Options  # noqa: E402

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_PATH = Path(_FOLDER.name) / "s.session"
_MODEL = str(random_gguf.write_random_gguf(Path(_FOLDER.name) / "m.gguf", random_gguf.TINY_SHAPES["llama"], seed=0))
_MAY_CHOOSE = {*Options.model_fields, "kv_profile"} - {"lora_path", "lora_base", "lora_scale"}


def _load(**options: Any) -> Llama:
    return Llama(_MODEL, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, **options)


class _Told(Exception):
    pass


class _NotLoaded(Llama):
    """What a file has loaded, instead of loading it."""

    def __init__(self, path: str, **options: Any) -> None:
        assert path == _MODEL
        assert set(options) <= _MAY_CHOOSE, set(options) - _MAY_CHOOSE
        raise _Told


class _Opened(GGUF):
    """Read once."""

    open = functools.lru_cache(GGUF.open)  # type: ignore[assignment]


class _Seed:
    """An instance, a session of it, and where the integers of its state lie."""

    def __init__(self, llm: Llama) -> None:
        self.llm = llm
        llm.save_session(_PATH)
        self.header, self.parts = forged.unpack(_PATH)
        self.ints = _integers(state.Model.of(llm), self.parts["state"])

    def changed(self, rng: random.Random) -> bytes:
        kind = rng.random()
        header: Any = self.header
        parts: Dict[str, bytes] = dict(self.parts)
        if kind < 0.4:
            header = mutate.json_value(rng, header)
        elif kind < 0.5:
            text = json.dumps({"parts": forged.sums(parts), **header}).encode()
            return forged.pack(mutate.data(rng, text), parts)
        elif kind < 0.55:
            header = {**header, "parts": mutate.json_value(rng, forged.sums(parts))}
        elif kind < 0.65:
            name = rng.choice(("tokens", "logits"))
            parts[name] = mutate.data(rng, parts[name])
        else:
            parts["state"] = mutate.data(rng, parts["state"], self.ints)
        return forged.pack(header, parts)


def _integers(model: state.Model, raw: bytes) -> list[int]:
    """Offsets of all that the walk over a state reads as integers."""
    spans = []

    class Noted(state._Reader):
        def take(self, form: str) -> Any:
            spans.append((self.at, self.at + 4))
            return super().take(form)

        def ints(self, n: int) -> Any:
            spans.append((self.at, self.at + 4 * min(n, 50)))
            return super().ints(n)

    real, state._Reader = state._Reader, Noted  # type: ignore[misc]
    try:
        state._walk(model, np.frombuffer(raw, np.uint8))
    finally:
        state._Reader = real  # type: ignore[misc]
    return mutate.offsets(spans)


def _seeds() -> list[_Seed]:
    """A compressed cache and the stock one."""
    profile = Profile.uniform(_MODEL)
    found = []
    for options in ({"kv_profile": profile, "kv_budget": 24, "kv_tail": 32}, {}):
        llm = _load(**options)
        tokens = [1 + i * 7 % 200 for i in range(60)]
        for _ in zip(range(12), llm.generate(tokens, temp=0)):
            pass
        found.append(_Seed(llm))
    return found


_SEEDS = _seeds()
# reading the model again and again would take most of the time
source.hash_of = functools.lru_cache(header.hash_of)
source.GGUF = _Opened  # type: ignore[misc]


def one(rng: random.Random) -> str:
    seed = rng.choice(_SEEDS)
    _PATH.write_bytes(seed.changed(rng))
    if rng.random() < 0.3:
        try:
            _NotLoaded.load_session(_PATH)
        except SessionError:
            return "loads nothing"
        except _Told:
            return "loads"
    try:
        seed.llm.load_session(_PATH)
    except SessionError:
        return "does not fit"
    return _goes_on(seed.llm, rng)


def _goes_on(llm: Llama, rng: random.Random) -> str:
    n = llm.n_tokens
    assert all(0 <= token < llm.n_vocab() for token in llm._input_ids)
    for il in range(2):
        kept = llm.kv_kept(il)
        assert (kept[:-1] < kept[1:]).all(), kept
        assert not len(kept) or (kept[0] >= 0 and kept[-1] < 256)
    if n < 200:
        token = llm.sample(temp=rng.choice((0.0, 1.0)))
        assert 0 <= token < llm.n_vocab()
        llm.eval([token])
        assert llm.n_tokens == n + 1
        if llm._compression is not None:
            try:
                llm.compress()
            except BudgetError:
                return "protects too much"
    return "went on"


FUZZER = runner.Fuzzer(one, native=True)

if __name__ == "__main__":
    runner.main(FUZZER)
