"""The command line of `compresskv serve`, in llama-cpp-python's style: every setting is a flag of its name."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NoReturn, Tuple

import llama_cpp.server.settings as upstream
from llama_cpp.server.cli import add_args_from_model
from pydantic import ValidationError

from ..chat import demo
from .settings import ConfigFileSettings, ModelSettings, ServerAndModelSettings, ServerSettings

_ALIASES = {"--profile": "--kv_profile", "--budget": "--kv_budget"}  # as in the other commands
_HELP = """\
An OpenAI-compatible server with compressed KV caches, and a chat page at /.

examples:
  compresskv serve demo                                   the tiny model that ships with the package
  compresskv serve model.gguf
  compresskv serve model.gguf --budget 1024 --n_slots 2 --port 8080
  compresskv serve qwen2.5-coder-0.5b-instruct            a model that "compresskv pull" has fetched
  compresskv serve repo/name:file.gguf                    a file of Hugging Face
  compresskv serve --config_file server.yaml              several models, JSON or YAML
  API_KEY=secret compresskv serve model.gguf --host 0.0.0.0

Every flag can be an environment variable (N_CTX=8192) or a line of the config file (n_ctx: 8192), whose models are a
list under `models:`. Flags win over the file, the file over the environment. --kv-budget is --kv_budget.
"""


def parse(args: Sequence[str]) -> Tuple[ServerSettings, List[ModelSettings]]:
    """Settings from arguments, environment and config file. Exits with status 2 and a sentence if they are wrong."""
    parser = _parser()
    given = vars(parser.parse_args([_spelled(arg) for arg in args]))
    given = {name: value for name, value in given.items() if value is not None}
    _name_model(given)
    path = os.environ.get("CONFIG_FILE", given.pop("config_file", None))
    try:
        return _from_file(Path(path), given) if path else _from_flags(given)
    except (ValidationError, OSError, ValueError) as error:
        _refuse(parser, error)


def help_text() -> str:
    """What --help says."""
    return _parser().format_help()


def flags() -> List[str]:
    """All of them, for the shell's completion."""
    return sorted(flag for flag in _parser()._option_string_actions if flag.startswith("--"))


def _spelled(arg: str) -> str:
    """--kv-budget=1 as --kv_budget=1."""
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return _ALIASES.get(flag, flag) + equals + value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "compresskv serve",
        usage="compresskv serve [MODEL] [--SETTING VALUE ...]",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model_file",
        metavar="MODEL",
        nargs="?",
        help="GGUF file, a name of compresskv pull, repo/name:file of Hugging Face, or demo",
    )
    parser.add_argument("--config_file", metavar="FILE", help="JSON or YAML; also as CONFIG_FILE")
    theirs = {*upstream.ModelSettings.model_fields}
    served = {*ServerSettings.model_fields}
    groups: Dict[str, List[str]] = {"compressed cache and slots": [], "server": [], "model (llama-cpp-python)": []}
    compressed, server, model = groups.values()
    for name in ServerAndModelSettings.model_fields:
        (server if name in served else model if name in theirs else compressed).append(name)
    for title, names in groups.items():
        fields = {name: ServerAndModelSettings.model_fields[name] for name in names}
        add_args_from_model(parser.add_argument_group(title), SimpleNamespace(model_fields=fields))
    return parser


def _name_model(given: Dict[str, Any]) -> None:
    """MODEL is --model, repo/name:file is --hf_model_repo_id repo/name --model file, demo is the shipped one."""
    model = given.pop("model_file", None)
    if model is None:
        return
    if model == demo.NAME:
        given.update({"kv_budget": demo.BUDGET, **given, "model": demo.model_path()})
        return
    repo, colon, file = model.partition(":")
    if colon and not Path(model).exists() and repo.count("/") == 1:
        given["hf_model_repo_id"], model = repo, file
    given["model"] = model


def _from_flags(given: Dict[str, Any]) -> Tuple[ServerSettings, List[ModelSettings]]:
    return ServerSettings(**_of(ServerSettings, given)), [ModelSettings(**_of(ModelSettings, given))]


def _from_file(path: Path, given: Dict[str, Any]) -> Tuple[ServerSettings, List[ModelSettings]]:
    content = _read(path)
    models = content.get("models")
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise ValueError(f"{str(path)!r} has no list of models: write models: and one or more with - model: FILE")
    content["models"] = [{**model, **_of(ModelSettings, given)} for model in models]
    settings = ConfigFileSettings(**{**content, **_of(ServerSettings, given)})
    return ServerSettings(**settings.model_dump(exclude={"models"})), settings.models


def _read(path: Path) -> Dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{str(path)!r} is no YAML: {error}") from None
    else:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds no settings but {type(content).__name__}")
    return content


def _of(model: Any, given: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in given.items() if name in model.model_fields}


def _refuse(parser: argparse.ArgumentParser, error: Exception) -> NoReturn:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing" and where == "model":
            parser.error("which model? compresskv serve MODEL.gguf")
        parser.error(f"{where}: {first['msg']}" if where else str(first["msg"]))
    parser.error(str(error))
