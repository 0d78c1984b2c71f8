"""A `compresskv serve` process for tests: the small chat model on one thread, a free port, nothing of the user's."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compresskv_edge.model.packaged import model_path

MODEL = Path(model_path())
OPTIONS = {"kv_profile": "uniform", "kv_budget": 128, "n_threads": 1, "n_threads_batch": 1, "port": 0}


@dataclass(frozen=True)
class ServerProcess:
    """Where it listens, and its process."""

    url: str
    process: subprocess.Popen[str]

    def resident_bytes(self) -> int:
        """Its memory, now."""
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True)
        return int(shown.stdout) * 1024


@contextlib.contextmanager
def serving(folder: Path, **options: object) -> Iterator[ServerProcess]:
    """Start one, and end it with SIGTERM; it must end by itself then. An option that is None is left out."""
    settings = {**OPTIONS, "model": MODEL, "sessions_dir": folder / "sessions", **options}
    flags = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    command = [sys.executable, "-m", "compresskv_edge", "serve", *flags]
    with open(folder / "log.txt", "a+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ})
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"https?://\S+", said)
            assert found, f"the server said {said!r} and {(folder / 'log.txt').read_text(encoding='utf-8')!r}"
            yield ServerProcess(found.group(), process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
