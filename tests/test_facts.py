"""The facts of a model, from the header of its file."""

from __future__ import annotations

import pytest
from headers import write_gguf

from compresskv_edge.errors import UnsupportedModelError
from compresskv_edge.model.facts import ModelFacts


def test_header_defaults(tmp_path):
    facts = ModelFacts.from_gguf(write_gguf(tmp_path / "m.gguf", n_head_kv=None))
    assert (facts.n_head_kv, facts.head_dim) == (4, 64 // 4)


@pytest.mark.parametrize("n_head", [None, 0, [0, 0, 0]])
def test_a_model_without_attention(tmp_path, n_head):
    path = write_gguf(tmp_path / "m.gguf", arch="mamba", n_head=n_head)
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.* has no attention heads"):
        ModelFacts.from_gguf(path)


def test_a_gguf_that_cannot_be_read(tmp_path):
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    broken = tmp_path / "broken.gguf"
    for content in (b"", b"GGUF", b"text that is long enough for a header", whole[:60], whole[:-5]):
        broken.write_bytes(content)
        with pytest.raises(UnsupportedModelError, match=r"cannot read the GGUF header of .*broken\.gguf"):
            ModelFacts.from_gguf(broken)
    with pytest.raises(UnsupportedModelError, match=r"none\.gguf"):
        ModelFacts.from_gguf(tmp_path / "none.gguf")
