"""`compresskv chat demo`: the shipped model answers from its text, in the template that its GGUF brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import chat_model
import pexpect

from compresskv_edge.apps.chat import demo
from compresskv_edge.apps.demo import scene as shipped
from compresskv_edge.apps.server.arguments import parse

FACTS = [fact for _, fact in shipped.facts()]


def chat(*more: str, text: str = "") -> Any:
    command = [sys.executable, "-m", "compresskv_edge", "chat", "demo", "--threads", "1", "--temperature", "0", *more]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


def test_every_question_is_answered_one_after_the_other() -> None:
    done = chat("--json", *(word for fact in FACTS for word in ("--ask", fact.question)))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(done.stdout)
    right = [result["answer"].rstrip(".") == fact.answer for result, fact in zip(results, FACTS)]
    assert len(right) == 5
    assert sum(right) >= 4, results
    n_kept = [sum(result["n_tokens_kept"]) / len(result["n_tokens_kept"]) for result in results]
    assert max(n_kept) < 0.06 * results[0]["n_tokens"]


def test_an_own_document_takes_the_place_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text(chat_model.text(), encoding="utf-8")
    fact = chat_model.facts()[0]
    done = chat("--file", str(tmp_path / "facts.txt"), "--budget", "256", text=f"{fact.question}\n/why 2\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(fact.answer)


def test_an_answer_is_one_sentence(tmp_path: Path) -> None:
    """Even where the model knows none: it would go on to the end of the context."""
    (tmp_path / "short.txt").write_text("The secret code of the amber lantern is 4817. The end of the report.")
    done = chat("--file", str(tmp_path / "short.txt"), "--ask", "What is the secret code of the amber lantern?")
    assert 0 < len(done.stdout.strip()) < 80


def test_a_newcomer_is_told_what_to_ask(tmp_path: Path) -> None:
    places = {f"XDG_{name}_HOME": str(tmp_path) for name in ("CACHE", "STATE", "CONFIG")}
    environment: Any = {**os.environ, **places, "TERM": "dumb", "NO_COLOR": "1"}
    command = ["-m", "compresskv_edge", "chat", "demo", "--threads", "1"]
    child = pexpect.spawn(sys.executable, command, env=environment, dimensions=(24, 80), encoding="utf-8", timeout=60)
    child.expect_exact(f"\n{demo.welcome(demo.document())}\r\n")
    child.expect("> ")
    child.sendline("/quit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_the_welcome_is_a_line_and_its_question_has_an_answer() -> None:
    text = demo.document()
    other = demo.Document("mine", "A text.")
    assert max(len(demo.welcome(text)), len(demo.welcome(other))) <= 80
    question = demo.welcome(text).partition("Ask: ")[2]
    (fact,) = [fact for fact in FACTS if fact.question == question]
    assert fact.sentence in text.text
    assert "Ask" not in demo.welcome(other)


def test_the_server_takes_the_name_too() -> None:
    _, (model,) = parse(["demo"])
    assert (model.model, model.kv_budget) == (shipped.model_path(), demo.BUDGET)
    assert model.chat_format is None
    _, (model,) = parse(["demo", "--budget", "256"])
    assert model.kv_budget == 256
