"""The fuzzer of requests, for a while; tests/fuzz/fuzz_server.py --seconds goes on as long as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parent / "fuzz" / "fuzz_server.py"


@pytest.mark.slow
def test_no_request_ends_the_process_or_is_answered_with_an_error_of_the_server():
    command = [sys.executable, str(FUZZER), "--requests", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "300 requests" in done.stdout
