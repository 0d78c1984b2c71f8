"""A plugin of the `llm` command (llm.datasette.io): GGUF files with a compressed cache as `llm -m compresskv/NAME`.

`llm` imports this file at every start, so the engine is imported with the first answer. Files are registered with
`llm compresskv add`; the list is compresskv.json in llm's own folder. The demo model is always there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Dict, Optional, Union

import click
import llm
from pydantic import BaseModel, BeforeValidator, Field, RootModel, ValidationError

from .. import files
from ..errors import CompressKVError
from ..model.facts import ModelFacts
from ..model.packaged import model_path
from ..model.profile import Profile

_DEMO = "demo"
_BASE_MODEL_TOKENS = 256  # a model without a chat template does not know when to stop


def _number(value: Any) -> Any:
    """ "1.0" is the whole prompt and "1" a token: pydantic would read both as 1."""
    return float(value) if isinstance(value, str) and "." in value else value


Budget = Annotated[Union[int, float, None], BeforeValidator(_number)]


class Entry(BaseModel):
    """One registered file: the arguments of `compresskv_edge.Llama` that do not change from prompt to prompt."""

    path: Path
    profile: str = "auto"
    budget: Budget = None
    context: int = Field(default=0, ge=0)


class Registry(RootModel[Dict[str, Entry]]):
    """Names and files, as in compresskv.json."""

    @classmethod
    def load(cls) -> Registry:
        """The user's list; empty if there is none. Raises click.ClickException if it cannot be read."""
        try:
            return cls.model_validate_json(_registry_path().read_bytes())
        except FileNotFoundError:
            return cls({})
        except ValidationError as error:
            raise click.ClickException(
                f"{_registry_path()} is not a list of models, mend or remove it: {error}"
            ) from None

    def save(self) -> None:
        """Write the list, whole or not at all. Raises click.ClickException."""
        try:
            files.replace_text(_registry_path(), self.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise click.ClickException(
                f"cannot write {_registry_path()}: {error.strerror or error}; the list is unchanged"
            ) from None


def _registry_path() -> Path:
    return Path(llm.user_dir()) / "compresskv.json"


class CompressKV(llm.Model):
    """One GGUF behind `llm`. It is loaded with the first prompt and stays, so that `llm chat` reads the past once."""

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """What `-o NAME VALUE` takes."""

        budget: Budget = Field(
            default=None, description="Tokens a layer keeps on average (256), or fraction of the prompt (0.25)"
        )
        temperature: Optional[float] = Field(default=None, description="0 always takes the likeliest token", ge=0)
        max_tokens: Optional[int] = Field(default=None, description="Longest answer", gt=0)
        seed: Optional[int] = Field(default=None, description="The same seed gives the same answer")

    def __init__(self, name: str, entry: Entry) -> None:
        self.model_id = f"compresskv/{name}"
        self.entry = entry
        self._llama: Any = None
        self._budget: Union[int, float, None] = None

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        """Answer, piece by piece. What the cache holds afterwards goes to `llm logs --json`."""
        try:
            llama = self._load(prompt.options.budget or self.entry.budget)
            yield from _answer(llama, prompt)
        except CompressKVError as error:
            raise llm.ModelError(f"compresskv: {error}") from None
        stats = llama.kv_stats()
        response.response_json = {"kv": asdict(stats)}

    def _load(self, budget: Union[int, float, None]) -> Any:
        if self._llama is None or budget != self._budget:
            from ..runtime.llama import Llama

            self._llama = None  # two models may not fit
            self._llama = Llama(
                str(self.entry.path), kv_profile=self.entry.profile, kv_budget=budget, n_ctx=self.entry.context,
                verbose=False,
            )  # fmt: skip
            self._budget = budget
        return self._llama


def _answer(llama: Any, prompt: Any) -> Iterator[str]:
    options: dict[str, Any] = prompt.options.model_dump(exclude_none=True, exclude={"budget"})
    messages = [_message(each) for each in prompt.messages]
    if "tokenizer.chat_template" not in llama.metadata:  # a base model: the text goes on
        text = "\n\n".join(message["content"] for message in messages)
        options.setdefault("max_tokens", _BASE_MODEL_TOKENS)
        yield from (chunk["choices"][0]["text"] for chunk in llama(text, stream=True, **options))
        return
    if prompt.schema:
        options["response_format"] = {"type": "json_object", "schema": prompt.schema}
    for chunk in llama.create_chat_completion(messages, stream=True, **options):
        yield chunk["choices"][0]["delta"].get("content") or ""


def _message(message: Any) -> dict[str, str]:
    texts = (part.text for part in message.parts if hasattr(part, "text"))
    return {"role": message.role, "content": "\n".join(texts)}


@llm.hookimpl
def register_models(register: Any) -> None:
    """The demo model and the user's files."""
    demo = Path(model_path())
    for name, entry in {_DEMO: Entry(path=demo), **Registry.load().root}.items():
        register(CompressKV(name, entry))


@llm.hookimpl
def register_commands(cli: Any) -> None:
    """`llm compresskv add` and `llm compresskv remove`."""

    @cli.group(name="compresskv")
    def group() -> None:
        """GGUF files whose KV cache is compressed"""

    group.add_command(_add)
    group.add_command(_remove)


@click.command("add")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Name behind compresskv/, by default the file's.")
@click.option("--profile", default="auto", show_default=True, help="Profile: a file, a shipped name or auto.")
@click.option("--budget", help="Tokens a layer keeps on average, or fraction of the prompt.")
@click.option("--context", default=0, help="Positions; 0: what the model was trained for.")
def _add(path: Path, name: Optional[str], profile: str, budget: Optional[str], context: int) -> None:
    """Register the GGUF file PATH"""
    registry, name = Registry.load(), name or path.stem
    profile = str(Path(profile).resolve()) if Path(profile).is_file() else profile
    fields = {"path": path.resolve(), "profile": profile, "budget": budget, "context": context}
    try:
        registry.root[name] = Entry.model_validate(fields)
        _check(path, profile)
    except ValidationError as error:
        raise click.BadParameter("; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())) from None
    except CompressKVError as error:
        raise click.ClickException(str(error)) from None
    registry.save()
    click.echo(f"llm -m compresskv/{name}")


def _check(path: Path, profile: str) -> None:
    """Say now what the first prompt would say."""
    facts = ModelFacts.from_gguf(path)
    if profile != "auto":
        Profile.load(profile).check(facts)


@click.command("remove")
@click.argument("name")
def _remove(name: str) -> None:
    """Forget the file registered as NAME; the file itself stays"""
    registry = Registry.load()
    if registry.root.pop(name, None) is None:
        raise click.ClickException(f"{name!r} is not registered; registered: {', '.join(registry.root) or 'none'}")
    registry.save()
