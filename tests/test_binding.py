"""llama_cpp's private members are touched in runtime/binding.py: what a new version of it may break is in one file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import llama_cpp
import numpy as np
import pytest

from compresskv_edge import Llama
from compresskv_edge.runtime import binding

PACKAGE = Path(binding.__file__).parents[1]
ALLOWED = {
    ("runtime/binding.py", None),
    ("runtime/llama.py", "_model"),  # overridden: the moment at which the base class has loaded the model
    ("engine/library.py", "_lib"),  # which library the binding loaded, asked in the room below
}


def private_names() -> set[str]:
    """Attributes and functions of the binding with a leading underscore."""
    sources = [path.read_text(encoding="utf-8") for path in Path(llama_cpp.__file__).parent.glob("*.py")]
    return {name for text in sources for name in re.findall(r"(?:\.|def )(_[a-z]\w*)", text)}


def touched(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each private attribute that is read or written on anything that is not our own object."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_llama = any(isinstance(node, ast.ClassDef) and "Llama" in node.name for node in ast.walk(tree))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} | assigned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            ours = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and not is_llama
            if not ours and not (is_llama and node.attr in own):
                yield node.lineno, node.attr


def assigned(tree: ast.AST) -> set[str]:
    """Attributes that the file's own classes give themselves."""
    found = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        flat = [each for target in targets for each in getattr(target, "elts", [target])]
        found |= {each.attr for each in flat if isinstance(each, ast.Attribute)}
        found |= {each.id for each in flat if isinstance(each, ast.Name) and each.id.startswith("_")}
    return found


def test_the_names_are_found() -> None:
    assert {"_ctx", "_batch", "_input_ids", "_chat_handlers", "_init_sampler", "_model", "_seed"} <= private_names()
    assert {"_requires_eval", "_logits_all", "_convert_completion_to_chat", "_exit_stack"} <= private_names()


def test_private_members_of_the_binding_are_touched_in_one_file() -> None:
    private, wrong = private_names(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for line, attribute in touched(path):
            allowed = (name, None) in ALLOWED or (name, attribute) in ALLOWED
            if attribute in private and not allowed:
                wrong.append(f"{name}:{line}: {attribute}")
    assert wrong == []


def test_nobody_outside_reaches_into_our_side_of_a_llama() -> None:
    inside = ("._compression", "._reader")
    wrong = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "runtime"
        and any(name in path.read_text(encoding="utf-8") for name in inside)
    ]
    assert wrong == []


#
# what is asked of it
#


@pytest.fixture
def llm(load: Callable[..., Llama]) -> Llama:
    return load()


def test_logits_are_those_of_the_last_token(llm: Llama) -> None:
    assert binding.last_logits(llm).shape == (0,)
    llm.eval([65, 66, 67])
    logits = binding.last_logits(llm)
    assert logits.shape == (llm.n_vocab(),)
    assert np.ptp(logits) > 0
    assert binding.sample(llm, binding.sampler(llm, temp=0)) == logits.argmax() == llm.sample(temp=0)
    binding.set_evaluated(llm, False)
    assert not binding.is_evaluated(llm)
    assert binding.last_logits(llm).shape == (0,)


def test_weights_are_shared(llm: Llama, path: str) -> None:
    with binding.sharing(binding.weights_of(llm)):
        other = Llama(path, kv_profile=llm.kv_settings.profile, n_ctx=256, verbose=False)
    assert other.model is llm.model
    assert other.ctx is not llm.ctx
    other.close()
    llm.eval([65])  # its weights are there


def test_options_have_the_defaults_of_the_binding() -> None:
    options = binding.chat_options(None, max_tokens=3)
    assert (options["functions"], options["max_tokens"], options["temperature"]) == (None, 3, 0.2)
    assert not {"self", "messages"} & set(options)
    with pytest.raises(TypeError):
        binding.chat_options(max_token=3)


def test_grammars(llm: Llama) -> None:
    def grammar(text: str) -> Any:
        return llama_cpp.LlamaGrammar.from_string(text, verbose=False)

    assert binding.grammar_parses(llm, grammar("root ::= [a-z]+"))
    assert not binding.grammar_parses(llm, grammar("root ::= ("))
