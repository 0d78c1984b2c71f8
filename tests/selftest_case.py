"""The case that tests/native/selftest.cpp runs: a needle prompt for the demo model, and what this machine answers.

python tests/selftest_case.py > case.txt                the case
python tests/selftest_case.py --answer > expected.txt    what the program has to print
"""

from __future__ import annotations

import sys

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.evaluate import needle
from compresskv_edge.model.packaged import model_path

N_CONTEXT, TAIL, BUDGET = 640, 64, 0.12
N_PREDICT = 6  # a space, four digits and the full stop


def question(llm: Llama) -> needle.NeedlePrompt:
    return needle.make_prompts(1, needle.token_counter(llm), contexts=(N_CONTEXT,))[0]


def load() -> tuple[Llama, list[int]]:
    llm = Llama(
        model_path(), kv_profile="demo", kv_budget=BUDGET, kv_tail=TAIL, kv_prefill="full", kv_protect=False,
        n_ctx=4096, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1, verbose=False,
    )  # fmt: skip
    return llm, llm.tokenize(question(llm).text.encode())


def case() -> str:
    llm, tokens = load()
    profile = Profile.load("demo")
    heads = profile.heads_used()
    budgets = llm._compression.budgets(len(tokens))
    settings = profile.settings
    numbers = [len(heads), len(heads[0]), settings.window, settings.kernel, int(settings.pooling == "max"), TAIL]
    rows = [[*numbers, N_PREDICT, len(tokens)], *heads, budgets, tokens]
    return "\n".join(" ".join(map(str, row)) for row in rows)


def answer() -> str:
    llm, tokens = load()
    n_layer, found = Profile.load("demo").model.n_layer, []
    for token in llm.generate(tokens, temp=0.0):
        if not found:
            kept = [[layer, *native.positions(llm._ctx.ctx, layer)] for layer in range(n_layer)]
        found.append(token)
        if len(found) == N_PREDICT:
            break
    said = llm.detokenize(found).decode()
    assert needle.is_correct(said, question(llm).answer), said
    lines = [f"kept {' '.join(map(str, row))}" for row in kept] + [f"tokens {' '.join(map(str, found))}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(answer() if sys.argv[1:] == ["--answer"] else case())
