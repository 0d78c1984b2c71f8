"""A long prompt in little memory, an endless chat, and what a token costs there: minutes on an idle machine.

    python tools/measure_memory.py modes --threads 1        # seconds: the bundled model, one process a mode
    python tools/measure_memory.py limit                    # 64k tokens in weights + 300 MB: stock, chunked, guided
    python tools/measure_memory.py decode                   # 20 000 tokens: bytes of the KV cache against the formula
    python tools/measure_memory.py steady                   # time of a token, evictions included, against stock

But for `modes`, the model is Qwen2.5-0.5B's shape with random weights, Q4_0, written to the cache folder once; --model
takes another.

The limit is RLIMIT_DATA, which counts every private page that a process may write (heap, stacks, Python and NumPy too),
touched or not. The weights are read into memory (use_mmap=False), so that they count as well: a mapped file would be
outside the limit, and the kernel would read it again and again where memory is short. RLIMIT_AS would count mappings
that take no memory, such as the code of libraries.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import platformdirs

MODES = ("stock", "chunked", "guided")
KV_ROW_BYTES = 2  # f16, an element


def load(options, mode, n_ctx, **more):
    from compresskv_edge import Llama
    from compresskv_edge.apps.bench.contexts import uniform_profile

    shared = {"n_threads": options.threads, "n_threads_batch": options.threads, "verbose": False}
    if mode != "stock":
        shared |= {"kv_profile": uniform_profile(Path(options.model)), "kv_budget": options.budget}
        shared |= {"kv_tail": options.tail, "kv_prefill": mode, "kv_guide": 32, "kv_rebase": True}
    return Llama(options.model, n_ctx=n_ctx, flash_attn=True, **shared, **more)


def prompt(n, n_vocab):
    return np.random.default_rng(0).integers(256, n_vocab - 256, n).tolist()


def bound(llm, options):
    """sum_l (B_l + tail) x row size, in bytes."""
    layers = llm._compression.layers
    return sum(
        (budget + options.tail) * layer.n_head_kv * (layer.head_dim_k + layer.head_dim_v) * KV_ROW_BYTES
        for budget, layer in zip(llm._compression.current, layers)
    )


#
# the bundled model in each mode
#


def modes(options):
    results = {}
    for mode in ("stock", "full", "chunked", "guided"):
        command = [sys.executable, __file__, "modes", "--child", mode, f"--threads={options.threads}"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        results[mode] = json.loads(run.stdout.strip().splitlines()[-1])
        print(f"{mode}: {results[mode]}", flush=True)
    return results


def modes_child(options):
    from compresskv_edge import Llama
    from compresskv_edge.model.packaged import model_path

    shared = {"n_threads": options.threads, "n_threads_batch": options.threads, "n_ctx": 4096, "verbose": False}
    if options.child != "stock":
        shared |= {"kv_profile": "demo", "kv_budget": 256, "kv_tail": 256, "kv_prefill": options.child}
    llm = Llama(model_path(), flash_attn=True, **shared)
    for _, _ in zip(range(101), llm.generate(prompt(3698, llm.n_vocab()), temp=0)):
        pass
    stats = llm.kv_stats()
    facts = {name: getattr(stats, name) for name in ("kv_bytes_peak", "kv_bytes", "kv_bytes_stock", "n_evictions")}
    facts["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.child != "stock":
        facts.update(_session(llm))
    print(json.dumps(facts))


def _session(llm):
    """Bytes of the file, and the median of nine loads in ms."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.session"
        llm.save_session(file)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            llm.load_session(file)
            times.append(1000 * (time.perf_counter() - start))
        return {"session_bytes": file.stat().st_size, "load_ms": round(statistics.median(times), 2)}


#
# a prompt under a limit: each mode in a process of its own
#


def limit(options):
    size = os.path.getsize(options.model) + options.mb * 10**6
    results = {}
    for mode in options.modes:
        command = [sys.executable, __file__, "limit", "--child", mode, "--model", options.model]
        command += [f"--{name}={getattr(options, name)}" for name in ("tokens", "budget", "tail", "ubatch", "threads")]
        limits = lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))  # noqa: E731
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # NumPy's threads reserve 40 MB each, and have no work
        run = subprocess.run(command, capture_output=True, text=True, preexec_fn=limits, env=alone)
        lines = run.stdout.strip().splitlines()
        results[mode] = json.loads(lines[-1]) if run.returncode == 0 and lines else {"failed": _last_line(run.stderr)}
        print(f"{mode}: {results[mode]}", flush=True)
    return {"limit_bytes": size, "weights_bytes": os.path.getsize(options.model), **results}


def _last_line(text):
    return (text.strip().splitlines() or ["killed"])[-1]


def limit_child(options):
    start = time.perf_counter()
    small = {"use_mmap": False, "n_batch": options.ubatch, "n_ubatch": options.ubatch}
    llm = load(options, options.child, options.tokens + 64, **small)
    answer = []
    for token in llm.generate(prompt(options.tokens, llm.n_vocab()), temp=0):
        answer.append(token)
        if len(answer) == 8:
            break
    stats = llm.kv_stats()
    facts = {
        "answer": answer,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "kv_bytes_peak": stats.kv_bytes_peak,
        "kv_bytes_stock": stats.kv_bytes_stock,
        "n_evictions": stats.n_evictions,
    }
    if llm._compression:
        facts["kv_peak_ratio"] = round(stats.kv_bytes_peak / bound(llm, options), 4)
    print(json.dumps(facts))


#
# decoding
#


def decode(options):
    llm = load(options, "chunked", options.tokens + 2048)
    generator = llm.generate(prompt(1500, llm.n_vocab()), temp=0)
    seen = []
    for n, _ in enumerate(generator, 1):
        if n in (1, 1000, options.tokens):
            stats = llm.kv_stats()
            seen.append({"n": n, "kv_bytes": stats.kv_bytes, "kv_bytes_peak": stats.kv_bytes_peak})
            print(seen[-1], flush=True)
        if n == options.tokens:
            break
    size = bound(llm, options)
    return {"bound_bytes": size, "peak_ratio": round(seen[-1]["kv_bytes_peak"] / size, 4), "seen": seen}


def steady(options):
    """Whole rounds of the tail, evictions included, in turn with stock contexts that hold the budget (and the tail)."""
    from compresskv_edge.runtime.prompt import Prompt

    cycle = options.tail - 8

    n_ctx = options.budget + options.tail
    endless = load(options, "chunked", 4 * options.budget + (options.rounds + 3) * cycle)
    stock = load(options, "stock", n_ctx)
    tokens = prompt(2 * options.budget, stock.n_vocab())
    with endless._reader.generating(Prompt(tuple(tokens))):
        endless.eval(tokens)
    stock.eval(tokens[: options.budget])
    block = min(64, cycle)
    times = {"endless": [], "stock at the budget": [], "stock at budget and tail": []}
    for _ in range(options.rounds):
        times["endless"].append(_per_token(endless, cycle))
        for name, n_held in (("stock at the budget", options.budget), ("stock at budget and tail", n_ctx - block)):
            _fill(stock, tokens, n_held)
            times[name].append(_per_token(stock, block))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"ratio to {name}": round(medians["endless"] / medians[name], 4) for name in list(times)[1:]}
    evictions = endless.kv_stats()
    return {"ms": medians, **ratios, "n_evictions": evictions.n_evictions, "eviction_ms": evictions.eviction_ms}


def _fill(llm, tokens, n):
    held = min(llm.n_tokens, n)
    llm.n_tokens = held
    llm.eval(tokens[held:n])


def _per_token(llm, n):
    start = time.perf_counter()
    for i in range(n):
        llm.eval([300 + i])
    return 1000 * (time.perf_counter() - start) / n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("modes", "limit", "decode", "steady"))
    parser.add_argument("--model", help="a GGUF")
    parser.add_argument("--tokens", type=int, help="prompt (64k) or decoded tokens (20 000)")
    parser.add_argument("--budget", type=int, default=1024, help="tokens a layer on average (%(default)s)")
    parser.add_argument("--tail", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--mb", type=int, default=300, help="millions of bytes above the weights (%(default)s)")
    parser.add_argument("--ubatch", type=int, default=32, help="micro-batch of the prompt (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the tail, for steady (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--child", choices=("full", *MODES), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    if options.child and options.what == "modes":
        modes_child(options)
        return
    options.tokens = options.tokens or (20_000 if options.what == "decode" else 65_536)
    if options.model is None and options.what != "modes":
        from compresskv_edge.apps.bench.contexts import write_model

        options.model = str(write_model("qwen2.5-0.5b", "Q4_0", Path(platformdirs.user_cache_dir("compresskv-edge"))))
    if options.child:
        limit_child(options)
        return
    from compresskv_edge.engine.machine import machine_facts

    results = {"modes": modes, "limit": limit, "decode": decode, "steady": steady}[options.what](options)
    settings = {name: getattr(options, name) for name in ("tokens", "budget", "tail", "ubatch", "threads", "rounds")}
    report = {"settings": settings, "machine": machine_facts(), **results}
    print(json.dumps(report, indent=1))
    if options.json:
        from compresskv_edge.files import write_json

        write_json(options.json, report)


if __name__ == "__main__":
    main()
