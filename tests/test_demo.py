"""The demo measures what it shows, and shows it on any terminal and in any pipe."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from compresskv_edge.apps.demo import measure, run, scene, view
from compresskv_edge.errors import ModelError


@pytest.fixture(scope="module")
def result() -> measure.DemoResult:
    return measure.measure(scene.packaged(0.25, n_questions=2))


def printed(result: measure.DemoResult, width: int, encoding: str = "utf-8", **console: bool) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors="strict") as file:
        view.show(result, Console(file=file, width=width, **console))
        file.flush()
        return raw.getvalue().decode(encoding)


def test_it_measures_what_it_shows(result: measure.DemoResult) -> None:
    kept = result.compressed.kv.n_tokens_kept
    assert 3500 < result.n_prompt_tokens <= scene.N_TOKENS
    assert sum(kept) == pytest.approx(0.25 * result.n_prompt_tokens * len(kept), abs=len(kept))
    assert result.compressed.kv.kv_bytes < 0.5 * result.full.kv.kv_bytes
    assert result.full.eviction_ms == 0 < result.compressed.eviction_ms < result.compressed.prefill_ms
    assert all(answer.full_is_right for answer in result.answers)


def test_what_was_kept_along_the_document(result: measure.DemoResult) -> None:
    for answer, (depth, _) in zip(result.answers, scene.facts(2)):
        assert len(answer.kept) == measure.N_CELLS
        assert sum(answer.kept) / measure.N_CELLS == pytest.approx(0.25, abs=0.03)
        assert answer.evidence == pytest.approx(depth * measure.N_CELLS, abs=1.5)
        assert answer.has_evidence
        assert answer.evidence_kept > 0.9


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_prints_anywhere(result: measure.DemoResult, width: int, encoding: str) -> None:
    text = printed(result, width, encoding)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    for answer in result.answers:
        assert answer.question.split()[0] in text
        assert text.count(answer.full.split()[0]) >= 2


def test_the_picture_is_the_last_screen(result: measure.DemoResult) -> None:
    lines = printed(dataclasses.replace(result, answers=(*result.answers, *result.answers)), 80).splitlines()[-24:]
    assert "4 questions about one document" in "\n".join(lines)
    assert sum(line.startswith("|") and "◆" in line for line in lines) == 4
    bars = [line.count("█") for line in lines if "MB" in line]
    assert len(bars) == 2
    assert bars[1] / bars[0] == pytest.approx(result.compressed.kv.kv_bytes / result.full.kv.kv_bytes, abs=0.03)


def test_right_and_wrong_kept_and_lost_differ_without_colours(result: measure.DemoResult) -> None:
    good = result.answers[0]
    bad = dataclasses.replace(good, compressed="something else", compressed_is_right=False, evidence_kept=0.2)
    for encoding, signs in (("utf-8", "◆✓◇✗"), ("ascii", ("O", "ok", "x", "WRONG"))):
        right, wrong = (printed(dataclasses.replace(result, answers=(a,)), 80, encoding) for a in (good, bad))
        assert signs[0] in picture(right)
        assert signs[3] not in picture(right)
        assert signs[2] in picture(wrong)
        assert f"{signs[3]} something" in picture(wrong)
        assert "answers 1 of 1" in right
        assert "answers 0 of 1" in wrong.replace("\n", " ")


def picture(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_colours_on_terminals_only(result: measure.DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"\x1b\[[\d;]*3[12]m", printed(result, 80, force_terminal=True))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", printed(result, 80, force_terminal=True))


def test_the_result_as_json(result: measure.DemoResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "measure", lambda asked, step: result)
    path = tmp_path / "new" / "demo.json"
    assert run.run(json_path=path, console=Console(file=io.StringIO())) == 0
    assert json.loads(path.read_text())["answers"][0]["expected"] == result.answers[0].expected


def test_without_questions() -> None:
    with pytest.raises(ValueError, match="n_questions is 0: ask 1 or more"):
        run.run(n_questions=0)


def test_each_step_is_told() -> None:
    steps: list[str] = []
    asked = scene.packaged(0.1, 1)
    measure.measure(asked, steps.append)
    assert steps == ["asking"] * 4 + ["measuring"] * 2
    assert len(steps) == measure.n_steps(asked)


def test_the_last_line_names_a_real_model(result: measure.DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure", lambda asked, step: result)
    out = io.StringIO()
    assert run.run(console=Console(file=out, width=60)) == 0
    assert (
        out.getvalue()
        .strip()
        .splitlines()[-1]
        .endswith("compresskv pull qwen2.5-coder-0.5b-instruct && compresskv demo qwen2.5-coder-0.5b-instruct")
    )


def test_the_book_holds_what_is_asked_of_it(tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.GGUF, "open", lambda path: SimpleNamespace(metadata={"tokenizer.chat_template": "x"}))
    monkeypatch.setattr(scene, "_profile", lambda path: None)
    book = scene.real(str(tiny_gguf("llama")))
    assert len(book.asked) == scene.N_QUESTIONS
    for asked in book.asked:
        assert book.document.count(asked.sentence) == 1
        assert asked.is_right(asked.sentence)
        assert not asked.is_right("I do not know.")
        assert not asked.is_right(f"1{asked.expected.split('|')[-1]}0")


def test_a_model_without_a_chat_template_answers_no_questions(
    tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.GGUF, "open", lambda path: SimpleNamespace(metadata={}))
    with pytest.raises(ModelError, match="has no chat template, so it answers no questions: take an instruct model"):
        run.run(model=str(tiny_gguf("llama")))


@pytest.mark.real
def test_a_real_model_over_a_book(qwen_coder: Path) -> None:
    """At the budget that the demo states, as many right answers as the full cache less one."""
    result = measure.measure(scene.real(str(qwen_coder)))
    n_full = sum(answer.full_is_right for answer in result.answers)
    n_ours = sum(answer.compressed_is_right for answer in result.answers)
    assert n_full >= 4
    assert n_ours >= n_full - 1
    assert result.compressed.kv.kv_bytes < 0.2 * result.full.kv.kv_bytes
