"""Logits of a prompt and of the tokens decoded greedily after it, for comparisons to the bit: one thread.

As a script it runs stock llama_cpp on whatever library LLAMA_CPP_LIB_PATH names:

    python tests/logits.py CASES.json OUT.npz OPTIONS

OPTIONS: of all cases, as JSON: the device.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}  # enum ggml_type


class Case(NamedTuple):
    """One run. `n_ubatch` is the micro-batch in tokens."""

    model: str
    n_prompt: int
    n_ubatch: int = 512
    type_kv: str = "f16"
    n_decode: int = 50

    def options(self) -> dict[str, Any]:
        kv = TYPES[self.type_kv]
        sizes = {"n_ctx": 4096, "n_batch": 512, "n_ubatch": self.n_ubatch}
        threads = {"n_threads": 1, "n_threads_batch": 1}
        return {**sizes, **threads, "flash_attn": True, "swa_full": False, "type_k": kv, "type_v": kv, "verbose": False}


def prompt(case: Case) -> list[int]:
    """Token ids of printable bytes: valid in every model that the tests write."""
    return np.random.default_rng(case.n_prompt).integers(32, 127, case.n_prompt).tolist()


def last_logits(llm: Any) -> npt.NDArray[np.float32]:
    """Logits of the last decoded token: (n_vocab,)."""
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),)).copy()


def run(
    llm: Any,
    case: Case,
    after_prompt: Optional[Callable[[Any], None]] = None,
    follow: Optional[npt.NDArray[np.float32]] = None,
) -> npt.NDArray[np.float32]:
    """Logits after the prompt and after each decoded token: (1 + n_decode, n_vocab).

    The most likely token is decoded, by these logits or by those of an earlier run (follow).
    """
    llm.eval(prompt(case))
    logits = [last_logits(llm)]
    if after_prompt is not None:
        after_prompt(llm)
    for i in range(case.n_decode):
        llm.eval([int((logits if follow is None else follow)[i].argmax())])
        logits.append(last_logits(llm))
    return np.stack(logits)


def main(cases_path: str, out_path: str, options: str) -> None:
    import llama_cpp

    with open(cases_path, encoding="utf-8") as file:
        cases = [Case(*values) for values in json.load(file)]
    results = {}
    for i, case in enumerate(cases):
        llm = llama_cpp.Llama(case.model, **case.options(), **json.loads(options))
        results[str(i)] = run(llm, case)
        llm.close()
    np.savez(out_path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
