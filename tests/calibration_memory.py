"""A process that calibrates on one long document: prints how far its memory grew after loading, and the full cache."""

from __future__ import annotations

import sys
from pathlib import Path

from compresskv_edge.calibration import Corpus, Plan
from compresskv_edge.calibration.runner import Runner, open_engine


def status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


plan = Plan(n_documents=2, n_error_documents=1, n_questions=3, min_tokens=3900, max_tokens=3900)
with open_engine(sys.argv[1], plan, n_threads=1) as engine:
    loaded = status_bytes("VmRSS")
    Runner(engine, Corpus.load(model_name="demo"), plan).run()
    stats = engine.llm.kv_stats()
    print(status_bytes("VmHWM") - loaded, stats.kv_bytes_stock)
