"""What a newcomer runs first: the example of the README."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart():
    run = subprocess.run([sys.executable, EXAMPLES / "quickstart.py"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    answer, stats = run.stdout.strip().splitlines()
    assert answer.strip() == "4817"
    assert stats.startswith("KVStats(n_tokens_seen=3")
    assert "n_evictions=1" in stats
