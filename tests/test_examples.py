"""What a newcomer runs first: the example of the README and the demo."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from compresskv_edge import demo

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart():
    run = subprocess.run([sys.executable, EXAMPLES / "quickstart.py"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    answer, stats = run.stdout.strip().splitlines()
    assert answer.strip() == "4817"
    assert stats.startswith("KVStats(n_tokens_seen=3")
    assert "n_evictions=1" in stats


@pytest.fixture(scope="module")
def result():
    return demo.measure(0.25, n_questions=1)


def test_demo_measures_what_it_shows(result):
    kept = result.compressed.kv.n_tokens_kept
    assert 3500 < result.n_prompt_tokens <= demo.N_TOKENS
    assert sum(kept) == pytest.approx(0.25 * result.n_prompt_tokens * len(kept), abs=len(kept))
    assert result.compressed.kv.kv_bytes < 0.5 * result.full.kv.kv_bytes
    assert result.full.eviction_ms == 0 < result.compressed.eviction_ms < result.compressed.prefill_ms
    assert result.answers[0].full == result.answers[0].expected


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_demo_prints_anywhere(result, width, encoding, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "measure", lambda budget, n_questions: result)
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors="strict") as file:
        status = demo.run(json_path=tmp_path / "new" / "demo.json", console=Console(file=file, width=width))
        file.flush()
        text = raw.getvalue().decode(encoding)
    assert status == 0
    assert "Tokens kept" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert (
        json.loads((tmp_path / "new" / "demo.json").read_text())["answers"][0]["expected"] == result.answers[0].expected
    )


def test_demo_marks_wrong_answers():
    assert demo._marked("12", "12").plain == "12"
    assert demo._marked("[13]", "12").plain == "[13] (wrong)"


def test_demo_without_questions():
    with pytest.raises(ValueError, match="n_questions is 0: ask 1 or more"):
        demo.run(n_questions=0)
