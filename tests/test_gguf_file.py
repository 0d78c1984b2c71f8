from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from compresskv_edge.errors import UnsupportedModelError
from compresskv_edge.model.gguf_file import GGUF


@pytest.mark.parametrize("quant", ["F32", "F16", "Q8_0", "Q4_0"])
def test_tensors_are_those_of_the_gguf_package(tiny_gguf: Callable[..., Path], quant: str) -> None:
    path = tiny_gguf("llama", quant)
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path).tensors
    assert sorted(ours.tensors) == sorted(tensor.name for tensor in theirs)
    for tensor in theirs:
        mine = ours.tensors[tensor.name]
        assert (mine.offset, mine.n_bytes, mine.dims) == (tensor.data_offset, tensor.n_bytes, tuple(tensor.shape))
        np.testing.assert_array_equal(ours.find(tensor.name), gguf.dequantize(tensor.data, tensor.tensor_type))
    assert ours.find("nothing") is None


def test_metadata_is_that_of_the_gguf_package_without_texts_in_lists(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("gemma3")
    ours = GGUF.open(path).metadata
    assert ours["general.architecture"] == "gemma3"
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith("GGUF.") and key not in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
            assert ours[key] == field.contents(), key
    assert "tokenizer.ggml.tokens" not in ours


def test_the_hash_is_of_the_weights(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_gguf("llama")
    known = GGUF.open(path).hash()
    assert known.startswith("sha256:")
    assert known == GGUF.open(shutil.copy(path, tmp_path / "copy.gguf")).hash()
    assert known != GGUF.open(tiny_gguf("llama", seed=1)).hash()
    assert known != GGUF.open(tiny_gguf("llama", "F16")).hash()


def test_the_hash_ignores_names_and_templates(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_gguf("llama")
    data = path.read_bytes()
    assert data.count(b"tiny-llama") == 1
    (tmp_path / "renamed.gguf").write_bytes(data.replace(b"tiny-llama", b"fine-llama"))
    assert GGUF.open(tmp_path / "renamed.gguf").hash() == GGUF.open(path).hash()


def test_a_changed_weight_changes_the_hash_of_a_small_tensor(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_gguf("llama")
    data, tensor = bytearray(path.read_bytes()), GGUF.open(path).tensors["blk.1.attn_norm.weight"]
    data[tensor.offset + 5] ^= 1
    (tmp_path / "changed.gguf").write_bytes(data)
    assert GGUF.open(tmp_path / "changed.gguf").hash() != GGUF.open(path).hash()


def test_files_that_are_cut_off_or_no_gguf(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    whole, broken = tiny_gguf("llama").read_bytes(), tmp_path / "broken.gguf"
    for content in (b"", b"GGUF", b"text that is long enough", whole[:60], whole[:2000], whole[:-1000]):
        broken.write_bytes(content)
        with pytest.raises(UnsupportedModelError, match=r"broken\.gguf"):
            GGUF.open(broken)


def test_a_split_model_is_read_whole(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    for i, arch in enumerate(("llama", "qwen2")):
        shutil.copy(tiny_gguf(arch), tmp_path / f"m-{i + 1:05d}-of-00002.gguf")
    whole = GGUF.open(tmp_path / "m-00001-of-00002.gguf")
    assert "blk.0.attn_q.bias" in whole.tensors
    assert whole.metadata["general.architecture"] == "llama"
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(UnsupportedModelError, match="00002-of-00002"):
        GGUF.open(tmp_path / "m-00001-of-00002.gguf")
