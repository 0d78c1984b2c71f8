"""Flags, environment and config file of `compresskv serve`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pexpect
import pytest
from typer.testing import CliRunner

from compresskv_edge.apps import cli, server
from compresskv_edge.apps.server.arguments import parse
from compresskv_edge.apps.server.settings import KV_OPTIONS, ModelSettings
from compresskv_edge.errors import CompressKVError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("CONFIG_FILE", "API_KEY", "N_CTX", "KV_BUDGET", "MODEL", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)


def test_flags():
    settings, (model,) = parse(["m/x.gguf", "--budget", "1024", "--n-slots=2", "--n_ctx", "4096", "--port", "8080"])
    assert (model.model, model.model_alias) == ("m/x.gguf", "x.gguf")
    assert (model.kv_budget, model.n_slots, model.n_ctx, settings.port) == (1024, 2, 4096, 8080)


def test_defaults_are_for_a_long_chat_at_home():
    settings, (model,) = parse(["x.gguf"])
    assert (settings.host, settings.api_key, settings.cors_origins) == ("127.0.0.1", None, [])
    assert (model.kv_profile, model.n_ctx, model.flash_attn, model.logits_all) == ("auto", 0, True, False)


def test_threads_are_those_of_prompts_too_unless_told_otherwise():
    for more, n_batch in (([], 1), (["--n_threads_batch", "3"], 3)):
        _, (model,) = parse(["x.gguf", "--n_threads", "1", *more])
        assert (model.n_threads, model.n_threads_batch) == (1, n_batch)


@pytest.mark.parametrize(("text", "budget"), [("256", 256), ("0.25", 0.25), ("1.0", 1.0)])
def test_budget_is_tokens_or_a_fraction(text, budget):
    _, (model,) = parse(["x.gguf", "--kv-budget", text])
    assert model.kv_budget == budget
    assert type(model.kv_budget) is type(budget)


def test_stock_cache():
    _, (model,) = parse(["x.gguf", "--profile", "none"])
    assert model.kv_options() == {}


def test_other_policies_need_no_profile():
    _, (model,) = parse(["x.gguf", "--kv_policy", "snapkv", "--budget", "64"])
    options = model.kv_options()
    assert (options["kv_policy"], options["kv_profile"], options["kv_budget"]) == ("snapkv", None, 64)


def test_every_option_of_our_llama_is_a_setting():
    from compresskv_edge import Llama

    parameters = inspect.signature(Llama.__init__).parameters.values()
    ours = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert ours == {*KV_OPTIONS, "rpc_servers"} <= set(ModelSettings.model_fields)  # upstream has a setting for servers


def test_embeddings_need_no_cache():
    _, (model,) = parse(["x.gguf", "--embedding", "true"])
    assert model.kv_profile is None


def test_environment(monkeypatch):
    monkeypatch.setenv("KV_BUDGET", "512")
    monkeypatch.setenv("API_KEY", "secret")
    settings, (model,) = parse(["x.gguf"])
    assert (model.kv_budget, settings.api_key) == (512, "secret")
    assert parse(["x.gguf", "--budget", "64"])[1][0].kv_budget == 64


def test_name_on_hugging_face():
    _, (model,) = parse(["someone/some-model:q4.gguf"])
    assert (model.hf_model_repo_id, model.model) == ("someone/some-model", "q4.gguf")


CONTENT = {"port": 9000, "models": [{"model": "a.gguf", "kv_budget": 128}, {"model": "b.gguf", "model_alias": "b"}]}


@pytest.mark.parametrize("name", ["server.json", "server.yaml"])
def test_config_file(tmp_path, name):
    file = tmp_path / name
    file.write_text(json.dumps(CONTENT))  # JSON is YAML
    settings, models = parse(["--config_file", str(file)])
    assert settings.port == 9000
    assert [(model.model_alias, model.kv_budget) for model in models] == [("a.gguf", 128), ("b", None)]


def test_flags_win_over_the_config_file(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(CONTENT))
    settings, models = parse(["--config_file", str(tmp_path / "c.json"), "--port", "1", "--budget", "0.5"])
    assert settings.port == 1
    assert [model.kv_budget for model in models] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "which model?"),
        (["x.gguf", "--budget", "much"], "kv_budget: "),
        (["x.gguf", "--profile", "none", "--budget", "1"], "needs a kv_profile"),
        (["x.gguf", "--n_slots", "0"], "n_slots: "),
        (["x.gguf", "--port", "x"], "--port"),
        (["x.gguf", "--nonsense", "1"], "--nonsense"),
        (["--config_file", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_are_named(args, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(args)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.json", "{", "is no JSON"),
        ("c.yaml", "a: [", "is no YAML"),
        ("c.yaml", "port: 1", "list of models"),
        ("c.yaml", "models: []", "models: "),
        ("c.yaml", "models: [{model: a, colour: red}]", "colour"),
        ("c.yaml", "- x", "holds no settings"),
    ],
)
def test_mistakes_in_a_config_file_are_named(tmp_path, name, content, words, capsys):
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit):
        parse(["--config_file", str(tmp_path / name)])
    assert words in capsys.readouterr().err


def test_help_has_examples_and_every_setting():
    said = subprocess.run(
        [sys.executable, "-m", "compresskv_edge", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "compresskv serve model.gguf" in said.split("examples:")[1]
    for flag in ("--kv_profile", "--n_slots", "--api_key", "--n_gpu_layers", "--max_body_bytes"):
        assert flag in said


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(CompressKVError, match=r'fastapi.*pip install "compresskv-edge\[server\]"'):
        server.require_extra()
    result = CliRunner().invoke(cli.app, ["serve", "x.gguf"])
    assert result.exit_code == 1
    assert "compresskv-edge[server]" in result.output


def test_a_model_that_is_not_there_and_a_port_that_is_taken(tmp_path):
    import socket

    command = [sys.executable, "-m", "compresskv_edge", "serve", str(tmp_path / "none.gguf")]
    missing = subprocess.run([*command, "--port", "0"], capture_output=True, text=True)
    assert missing.returncode == 1
    assert "none.gguf" in missing.stderr
    assert "Traceback" not in missing.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr


@pytest.mark.parametrize(("quiet", "said"), [([], "loading none.gguf\r\n"), (["--quiet"], "")])
def test_a_terminal_is_told_that_it_loads(tmp_path, quiet, said):
    command = ["-m", "compresskv_edge", *quiet, "serve", str(tmp_path / "none.gguf"), "--port", "0"]
    shown = pexpect.run(" ".join([sys.executable, *command]), encoding="utf-8", timeout=60)
    assert shown.startswith(said + "compresskv: ")
