"""llm_plugin.py through the `llm` command itself."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

llm = pytest.importorskip("llm", reason="llm is in the extra 'integrations', which needs Python 3.10")
llm_cli = pytest.importorskip("llm.cli")

from click.testing import CliRunner  # noqa: E402

from compresskv_edge import Profile  # noqa: E402
from compresskv_edge.apps import llm_plugin  # noqa: E402
from compresskv_edge.apps.demo import scene as demo  # noqa: E402


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`run(*arguments)`: the `llm` command with our plugin, in a user's folder of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "user"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # which decides the number of threads
    llm.plugins.load_plugins()
    known = llm.plugins.pm.is_registered(llm_plugin)  # in an environment where `llm` finds it by itself
    if not known:
        llm.plugins.pm.register(llm_plugin)
    monkeypatch.setattr(llm_cli.cli, "commands", dict(llm_cli.cli.commands))
    llm_plugin.register_commands(llm_cli.cli)

    def run(*arguments: object, status: int = 0) -> str:
        done = CliRunner().invoke(llm_cli.cli, [str(each) for each in arguments])
        assert done.exit_code == status, done.output
        return done.output

    yield run
    if not known:
        llm.plugins.pm.unregister(llm_plugin)


@pytest.fixture
def model(run, tmp_path: Path, path: str) -> str:
    """A random model with a chat template, registered."""
    Profile.uniform(path).save(tmp_path / "profile.json")
    said = run("compresskv", "add", path, "--name", "random", "--profile", tmp_path / "profile.json", "--budget", "64")
    assert said == "llm -m compresskv/random\n"
    return "compresskv/random"


def kept(run) -> list[int]:
    """Tokens a layer keeps after the last answer."""
    return json.loads(run("logs", "--json", "-n", "1"))[0]["response_json"]["kv"]["n_tokens_kept"]


def test_the_entry_point_is_this_module() -> None:
    from importlib.metadata import entry_points

    found = [each for each in entry_points(group="llm") if each.value == "compresskv_edge.apps.llm_plugin"]
    assert [each.load() for each in found] == [llm_plugin]


def test_the_demo_model_answers(run) -> None:
    hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 20
    prompt = f"{hay}The secret code of the amber lantern is 4817. {hay} Which code opens the amber lantern?"
    options = ("-o", "temperature", "0", "-o", "max_tokens", "5", "-o", "budget", "0.25")
    assert run("-m", "compresskv/demo", *options, prompt).strip().startswith("4817")
    assert str(demo.model_path()) in {str(llm.get_model("compresskv/demo").entry.path)}


def test_a_registered_model_chats_within_its_budget(run, model: str) -> None:
    run("-m", model, "-o", "max_tokens", "4", "-s", "Be brief.", "word " * 100)
    assert kept(run) == [64 + 4 - 1] * 3  # the last token is not decoded
    run("-m", model, "-o", "max_tokens", "4", "-o", "budget", "32", "word " * 100)
    assert kept(run) == [32 + 4 - 1] * 3


def test_a_conversation_goes_on(run, model: str) -> None:
    run("-m", model, "-o", "max_tokens", "4", "one")
    first = json.loads(run("logs", "--json", "-n", "1"))[0]["response_json"]["kv"]["n_tokens_seen"]
    run("-c", "-o", "max_tokens", "4", "two")
    assert json.loads(run("logs", "--json", "-n", "1"))[0]["response_json"]["kv"]["n_tokens_seen"] > first


def test_a_schema_binds_the_answer(run, model: str) -> None:
    schema = '{"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}'
    answer = json.loads(run("-m", model, "-o", "temperature", "0", "--schema", schema, "Is it?"))
    assert type(answer["yes"]) is bool


def test_one_is_a_token_and_one_point_nought_the_whole_prompt() -> None:
    budgets = [llm_plugin.Entry.model_validate({"path": "x", "budget": each}).budget for each in ("1", "1.0", 1.0)]
    assert budgets == [1, 1.0, 1.0]
    assert [type(each) for each in budgets] == [int, float, float]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "demo"], "does not fit the model"),
        (["--profile", "nowhere.json"], "cannot read profile 'nowhere.json'"),
        (["--budget", "much"], "budget: Input should be a valid"),
        (["--context", "-1"], "context: Input should be greater"),
    ],
)
def test_what_cannot_work_is_not_registered(run, path: str, arguments: list[str], message: str) -> None:
    assert message in run("compresskv", "add", path, *arguments, status=2 if "Input" in message else 1)
    assert "compresskv/tiny" not in run("models", "list")


def test_remove(run, model: str) -> None:
    assert model in run("models", "list")
    run("compresskv", "remove", "random")
    assert model not in run("models", "list")
    assert "'random' is not registered; registered: none" in run("compresskv", "remove", "random", status=1)


def test_a_broken_list_is_named(run, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir(exist_ok=True)
    (tmp_path / "user" / "compresskv.json").write_text("[")
    assert "compresskv.json is not a list of models" in run("compresskv", "remove", "x", status=1)


def test_a_list_that_cannot_be_written_is_as_it_was(run, model: str, path: str, tmp_path: Path, monkeypatch) -> None:
    """A disk that is full in the middle of it: half of a list would be no list for all later calls of `llm`."""
    registry = tmp_path / "user" / "compresskv.json"
    before = registry.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = run("compresskv", "add", path, "--name", "second", status=1)
    assert "No space left on device; the list is unchanged" in said
    assert registry.read_bytes() == before
    assert [each.name for each in registry.parent.glob(".compresskv*")] == []
    run("compresskv", "add", path, "--name", "second")
    assert set(json.loads(registry.read_bytes())) == {"random", "second"}
