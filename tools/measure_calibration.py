"""Does a calibration hold on text that it never saw, and is it worth having? The demo model tells, in about 10 minutes.

    python tools/measure_calibration.py --documents 60 --json docs/results/calibration.json

A profile is calibrated on each half of our needles and haystacks. All profiles then answer the same questions over the
needles and haystacks of both halves; each prompt is read once, and evicted with each profile from the same saved state.
"""

import argparse
import json
import math
from pathlib import Path

from compresskv_edge import Profile, calibrate
from compresskv_edge.calibration import Corpus, Plan
from compresskv_edge.calibration.prompts import make_documents
from compresskv_edge.calibration.runner import open_engine
from compresskv_edge.engine import native
from compresskv_edge.evaluate.needle import is_correct
from compresskv_edge.files import write_json
from compresskv_edge.method.budget import resolve_mean_budget
from compresskv_edge.method.scoring import select_tokens
from compresskv_edge.model.packaged import model_path

BUDGETS = (0.015, 0.03, 0.06)
HALVES_BUDGET = 0.03


def profiles(model, corpus):
    whole, uniform = calibrate(model, n_threads=1), Profile.uniform(model)
    settings = whole.settings
    return {
        "half 1": calibrate(model, corpus=corpus.half(0), n_threads=1),
        "half 2": calibrate(model, corpus=corpus.half(1), n_threads=1),
        "calibrated": whole,
        "heads only": whole.model_copy(update={"layer_errors": uniform.layer_errors}),
        "budgets only": whole.model_copy(update={"heads_ranked": uniform.heads_ranked, "settings": uniform.settings}),
        "neither": uniform,
        # the paper's floor of 32 tokens makes all layers equal where the mean budget is no more than that
        "calibrated, floor 12": whole.model_copy(update={"settings": settings.model_copy(update={"floor": 12})}),
    }


def answer(engine, first):
    tokens = [first]
    while len(tokens) < 16 and not any(end in engine.llm.detokenize(tokens[-1:]) for end in (b".", b"\n")):
        engine.llm.eval(tokens[-1:])
        tokens.append(engine.next_token())
    return engine.llm.detokenize(tokens).decode(errors="replace").split(".")[0].split("\n")[0]


def ask(engine, document, needle, candidates):
    """{(profile, budget): right} of one question; the cache is full again afterwards."""
    tokens = engine.tokens(document.ask(needle, engine.render))
    engine.read(tokens)
    state, first = engine.llm.save_state(), engine.next_token()
    layers = range(candidates["neither"].model.n_layer)
    queries = [engine.window(layer) for layer in layers]
    keys = [engine.keys_and_values(layer)[0] for layer in layers]
    right = {("full cache", 1.0): is_correct(answer(engine, first), needle.answer)}
    for name, profile in candidates.items():
        for budget in BUDGETS:
            engine.llm.load_state(state)
            tokens_kept = profile.budgets(resolve_mean_budget(budget, len(tokens)))
            rows = zip(queries, keys, profile.heads_used(), tokens_kept)
            native.keep(engine.llm.ctx, [select_tokens(q, k, heads, n) for q, k, heads, n in rows])
            right[name, budget] = is_correct(answer(engine, first), needle.answer)
    engine.llm.load_state(state)
    return right


def measure(model, corpus, candidates, n_documents):
    """One dict as of `ask` for each question, with the half of the corpus that it is from."""
    plan = Plan(n_documents=n_documents, n_error_documents=1, n_questions=3, max_tokens=3900, seed=77)
    rows = []
    with open_engine(model, plan, n_threads=1) as engine:
        for half in (0, 1):
            for document in make_documents(corpus.half(half), plan, engine.count, engine.overhead()):
                engine.restart()
                rows += [(half, ask(engine, document, needle, candidates)) for needle in document.needles]
                print(f"{len(rows)} of {2 * n_documents * plan.n_questions} questions", flush=True)
    return rows


def table(rows):
    """Accuracy in percent of each profile and budget, with the paired difference from "neither" (95 %)."""
    out = []
    for key in rows[0][1]:
        values = [right[key] for _, right in rows]
        row = {
            "profile": key[0],
            "budget": key[1],
            "n": len(values),
            "percent": round(100 * sum(values) / len(values), 1),
        }
        if key[1] in BUDGETS:
            pairs = [right[key] - right["neither", key[1]] for _, right in rows]
            mean = sum(pairs) / len(pairs)
            error = math.sqrt(sum((pair - mean) ** 2 for pair in pairs) / len(pairs) / len(pairs))
            row |= {"more_than_neither": round(100 * mean, 1), "plus_minus": round(196 * error, 1)}
        out.append(row)
    return out


def halves(rows):
    """Accuracy in percent at 3 % by where a profile was calibrated and where it is tried."""
    tried = {half: [right for where, right in rows if where == half] for half in (0, 1)}
    return {
        f"calibrated on half {made + 1}, tried on half {half + 1}": round(
            100 * sum(right[f"half {made + 1}", HALVES_BUDGET] for right in tried[half]) / len(tried[half]), 1
        )
        for half in (0, 1)
        for made in (0, 1)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=60, help="of each half, three questions each (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    model, corpus = model_path(), Corpus.load(model_name="demo")
    rows = measure(model, corpus, profiles(model, corpus), options.documents)
    results = {"model": Path(model).name, "documents": options.documents}
    results |= {"accuracy": table(rows), "halves": halves(rows)}
    print(json.dumps(results, indent=1))
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
