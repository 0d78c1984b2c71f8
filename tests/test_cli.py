"""The command line as a user meets it: what is printed where, and exit statuses."""

import inspect
import json
import os
import subprocess
import sys
import types

import pytest
import typer
from typer.testing import CliRunner

import compresskv_edge.apps.demo
from compresskv_edge.apps import cli
from compresskv_edge.engine import library
from compresskv_edge.model import random_gguf

_SMALL = {"prompt-tokens": 100, "budget": 32, "tail": 32, "decode-tokens": 4, "repeats": 1, "threads": 1}
SMALL = [f"--{name}={value}" for name, value in _SMALL.items()]


@pytest.fixture
def compresskv(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")  # no colours in what is compared
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}  # Python 3.9
    return lambda *args: CliRunner(**separate).invoke(cli.app, [str(arg) for arg in args], prog_name="compresskv")


@pytest.fixture
def demo(monkeypatch):
    """A stand-in for the demo that records its arguments and returns 3."""
    calls = []

    def run(budget=None, **more):
        calls.append((budget, more))
        return 3

    fake = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "compresskv_edge.apps.demo.run", fake)
    monkeypatch.setattr(compresskv_edge.apps.demo, "run", fake, raising=False)
    return calls


def test_help_lists_the_commands(compresskv):
    for result in (compresskv("--help"), compresskv()):
        assert "bench" in result.output
        assert "demo" in result.output


def commands():
    """Every command and subcommand, as words."""
    for name, command in typer.main.get_command(cli.app).commands.items():
        yield from (
            ((name, sub) for sub in getattr(command, "commands", ())) if hasattr(command, "commands") else ((name,),)
        )


@pytest.mark.parametrize("words", [words for words in commands() if words != ("serve",)], ids=" ".join)
def test_help_has_examples(compresskv, words):
    result = compresskv(*words, "--help")
    assert result.exit_code == 0
    assert f"compresskv {' '.join(words)}" in result.output.split("Example")[1]


def test_exit_statuses_are_documented(compresskv):
    assert "Exit status: 0 done, 1 an error" in " ".join(compresskv("--help").output.split())


def test_ctrl_c_is_130(compresskv, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("compresskv_edge.apps.doctor.examine", stopped)
    assert compresskv("doctor").exit_code == 130


@pytest.mark.parametrize(
    ("words", "expected"),
    [("ca", "calibrate"), ("chat demo --fi", "--file"), ("serve --kv_pro", "--kv_profile --kv_protect")],
)
def test_shells_complete_commands_and_flags(words, expected):
    line, n = f"compresskv {words}", len(words.split())
    env = {**os.environ, "_COMPRESSKV_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(n)}
    run = [sys.executable, "-m", "compresskv_edge"]
    done = subprocess.run(run, capture_output=True, text=True, env=env)
    assert done.stdout.split() == expected.split()
    assert done.stderr == ""


def test_version(compresskv):
    result = compresskv("--version")
    assert result.exit_code == 0
    assert result.output == f"compresskv {compresskv_edge.__version__}, library {library.version()}\n"


def test_module_is_the_command():
    command = [sys.executable, "-m", "compresskv_edge", "bench", "none.gguf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("compresskv: cannot read")
    assert "none.gguf" in done.stderr


def test_a_file_that_is_no_model(compresskv, tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("not a model")
    result = compresskv("bench", path)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_truncated_model(compresskv, tmp_path, tiny_gguf):
    path = tmp_path / "half.gguf"
    whole = tiny_gguf("qwen2").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    result = compresskv("bench", path, *SMALL)
    assert result.exit_code == 1
    assert "half.gguf" in result.stderr


def test_a_missing_profile(compresskv, tiny_gguf):
    result = compresskv("bench", tiny_gguf("qwen2"), "--profile", "none.json")
    assert result.exit_code == 1
    assert "none.json" in result.stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["bench", "--type-k", "q3"], "'q3' is not one of f16, bf16"),
        (["bench", "--shape", "qwen9"], "'qwen9' is not one of qwen2.5-0.5b"),
        (["bench", "--quant", "Q9"], "'Q9' is not one of F32"),
        (["bench", "--repeats", "0"], "--repeats"),
        (["bench", "--prompt-tokens", "8"], "'8' is not a number of tokens from 16 on"),
        (["bench", "--budget", "512,x"], "'x' is not a number of tokens from 1 on"),
        (["bench", "--against", "q8_0,q3"], "'q3' is not one of f16, bf16"),
        (["bench", "--json", "no-such-folder/out.json"], "no folder 'no-such-folder'"),
        (["bench", "--no-such-option"], "--no-such-option"),
        (["demo", "--budget", "much"], "'much' is neither"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage(compresskv, demo, args, named):
    result = compresskv(*args)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not demo


def test_bench_prints_a_table_and_writes_json(compresskv, tmp_path, tiny_gguf):
    path = tmp_path / "out.json"
    result = compresskv("bench", tiny_gguf("qwen2"), *SMALL, "--type-k", "Q8_0", "--type-v", "q8_0", "--json", path)
    assert result.exit_code == 0, result.output
    for text in ("prefill", "eviction", "decode", "KV, MiB", "target", "uncalibrated", "KV q8_0/q8_0"):
        assert text in result.stdout
    assert result.stderr == ""  # no progress bar where nobody looks
    assert json.loads(path.read_text())["plan"]["type_k"] == "q8_0"


def test_bench_of_several_budgets_ends_with_one_table(compresskv, tmp_path, tiny_gguf):
    path = tmp_path / "out.json"
    small = [option for option in SMALL if not option.startswith("--budget")]
    options = ("--budget", "48,64", "--against", "q8_0", "--json", path)
    result = compresskv("bench", tiny_gguf("qwen2"), *small, *options)
    assert result.exit_code == 0, result.output
    assert "stock with q8_0 KV" in result.stdout
    assert "KV, peak MiB" in result.stdout
    runs = json.loads(path.read_text())["runs"]
    assert [(run["plan"]["budget_tokens"], list(run["against"])) for run in runs] == [(48, ["q8_0"]), (64, ["q8_0"])]


@pytest.mark.parametrize(("check", "status"), [([], 0), (["--check"], 1)])
def test_a_missed_target_fails_only_when_asked(compresskv, tiny_gguf, monkeypatch, check, status):
    monkeypatch.setattr("compresskv_edge.apps.bench.result.MAX_EVICTION", 0.0)
    result = compresskv("bench", tiny_gguf("qwen2"), *SMALL, *check)
    assert result.exit_code == status, result.output
    assert "NO" in result.stdout


def test_bench_writes_a_random_model_where_asked(compresskv, tmp_path, monkeypatch):
    monkeypatch.setattr(random_gguf, "SHAPES", {"qwen2.5-0.5b": random_gguf.TINY_SHAPES["qwen2"]})
    result = compresskv("bench", *SMALL, "--cache-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["qwen2.5-0.5b-q4_0.gguf"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], (None, {"model": None, "json_path": None})),
        (["qwen.gguf", "--budget", "256"], (256, {"model": "qwen.gguf", "json_path": None})),
        (["--budget", "0.5", "--questions", "2"], (0.5, {"model": None, "json_path": None, "n_questions": 2})),
    ],
)
def test_demo_gets_its_arguments(compresskv, demo, args, expected):
    result = compresskv("demo", *args)
    assert result.exit_code == 3
    assert demo == [expected]
    assert type(demo[0][0]) is type(expected[0])
