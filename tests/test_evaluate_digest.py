"""The evaluation of digests: its documents, and what its command writes. Answers are in test_digest.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compresskv_edge.evaluate import digest

ROOT = Path(__file__).parents[1]


def count(text: str) -> int:
    return len(text.split())


def test_documents_hold_their_facts_and_are_the_same_every_time() -> None:
    one, two, other = (digest.make_document(seed, count, 400) for seed in (3, 3, 4))
    assert one == two != other
    assert count(one.text) <= 400
    assert len(one.facts) == digest.N_FACTS
    assert all(one.text.count(fact.sentence) == 1 for fact in one.facts)


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    monkeypatch.setattr(digest, "measure", lambda documents, **kwargs: seen.append((documents, kwargs)) or {"full": 1})
    digest.main(["--documents", "2", "--json", str(tmp_path / "new" / "digest.json"), "--budget", "0.2"])
    ((documents, kwargs),) = seen
    assert len(documents) == 2
    assert kwargs["budget"] == 0.2
    report = json.loads((tmp_path / "new" / "digest.json").read_text())
    assert report["full"] == 1
    assert report["settings"]["documents"] == 2
    assert "full" in capsys.readouterr().out


def test_the_stored_results_meet_the_goal() -> None:
    """Second, third and fifth question at 12 %: at least 95 % of the full cache."""
    results = json.loads((ROOT / "docs" / "results" / "digest.json").read_text())
    assert results["settings"]["budget"] == 0.12
    assert results["full"]["n"] >= 200
    for question in (1, 2, 4):
        assert results["digest"]["by_question"][question] >= 0.95 * results["full"]["by_question"][question]
