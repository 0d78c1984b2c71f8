"""The examples that need another library run as they stand, and what they print is what they claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXTRA = "is in the extra 'integrations', which needs Python 3.10"
ONE_THREAD = "import os, runpy, sys; os.cpu_count = lambda: 1; runpy.run_path(sys.argv[1])"


def run(name: str) -> list[str]:
    """Lines of its output. One thread: tests share their cores, and ggml's threads wait for each other."""
    command = [sys.executable, "-c", ONE_THREAD, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_json_answer() -> None:
    answer, stats = run("json_answer.py")
    assert answer == "4817"
    assert "n_evictions=1" in stats


@pytest.mark.parametrize(
    ("name", "library"),
    [("use_langchain.py", "langchain_community.llms"), ("use_llama_index.py", "llama_index.llms.llama_cpp")],
)
def test_a_library_answers_from_a_compressed_cache(name: str, library: str) -> None:
    pytest.importorskip(library.split(".")[0], reason=f"{library} {EXTRA}")
    answer, stats = run(name)
    assert answer.strip() == "4817"
    assert "n_evictions=1" in stats


def test_langchain_chats_with_it() -> None:
    pytest.importorskip("langchain_community", reason=f"langchain_community {EXTRA}")
    code = (
        "import os; os.cpu_count = lambda: 1\n"
        "from compresskv_edge import replace_llama; from compresskv_edge.demo import model_path; replace_llama()\n"
        "from langchain_community.chat_models import ChatLlamaCpp\n"
        "llm = ChatLlamaCpp(model_path=model_path(), n_ctx=2048, n_batch=512, rope_freq_base=0, max_tokens=3,\n"
        "    verbose=False, model_kwargs={'kv_profile': 'auto', 'kv_budget': 64})\n"
        "print(len(''.join(each.content for each in llm.stream('word ' * 300))) > 0)\n"
        "print(sum(llm.client.kv_stats().n_tokens_kept) < 6 * (64 + 4))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_every_example_is_run_by_a_test() -> None:
    tested = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_examples*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested, path
