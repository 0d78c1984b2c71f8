from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import gguf_bytes
import numpy as np
import pytest

from compresskv_edge.errors import UnsupportedModelError
from compresskv_edge.model.gguf_file import GGUF
from compresskv_edge.model.profile import Profile
from compresskv_edge.model.sizes import ModelSizes


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


def test_a_split_model_is_read_whole(tmp_path: Path) -> None:
    split = ("split.count", gguf_bytes.U16, 2)
    parts = [[gguf_bytes.TENSORS[0]], [("output.weight", (64, 3), 0, 0)]]
    for i, tensors in enumerate(parts):
        fields = [*gguf_bytes.MODEL, split] if i == 0 else [split]
        (tmp_path / f"m-{i + 1:05d}-of-00002.gguf").write_bytes(gguf_bytes.gguf(fields, tensors, gguf_bytes.DATA))
    whole = GGUF.open(tmp_path / "m-00001-of-00002.gguf")
    assert set(whole.tensors) == {"token_embd.weight", "output.weight"}
    assert whole.metadata["general.architecture"] == "llama"
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(UnsupportedModelError, match="00002-of-00002"):
        GGUF.open(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "m-00001-of-00000.gguf", "m-00000-of-99999.gguf"])
def test_a_whole_model_may_be_named_as_a_part(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gguf_bytes.gguf(gguf_bytes.MODEL, gguf_bytes.TENSORS, gguf_bytes.DATA))
    assert len(GGUF.open(tmp_path / name).tensors) == 4


#
# headers of strangers
#

U32, STRING, ARRAY, U64 = gguf_bytes.U32, gguf_bytes.STRING, gguf_bytes.ARRAY, gguf_bytes.U64


def refused(path: Path, data: bytes, match: str = "") -> None:
    path.write_bytes(data)
    with pytest.raises(UnsupportedModelError, match=match or path.name):
        GGUF.open(path)


@pytest.mark.parametrize("alignment", [0, 3, 1 << 21, (1 << 32) - 1])
def test_alignment(alignment: int, tmp_path: Path) -> None:
    refused(tmp_path / "m.gguf", gguf_bytes.gguf([("general.alignment", U32, alignment)]), "no power of two")


@pytest.mark.parametrize(("kind", "value"), [(STRING, "32"), (gguf_bytes.BOOL, True), (ARRAY, (U32, [32]))])
def test_alignment_of_another_type(kind: int, value: object, tmp_path: Path) -> None:
    refused(tmp_path / "m.gguf", gguf_bytes.gguf([("general.alignment", kind, value)]), "no power of two")


def nested(depth: int) -> bytes:
    """Lists in lists, each of one."""
    lists = struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U32, 0)
    return gguf_bytes.gguf(n_fields=1)[:24] + gguf_bytes.text("x") + struct.pack("<I", ARRAY) + lists


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (gguf_bytes.gguf(n_fields=1 << 63), "fields"),
        (gguf_bytes.gguf(n_tensors=1 << 63), "tensors"),
        (gguf_bytes.gguf(n_fields=1 << 14) + bytes(1 << 20), "two fields are named ''"),
        (gguf_bytes.gguf([("a", U32, 1), ("a", U32, 2)]), "two fields are named 'a'"),
        (gguf_bytes.gguf(n_fields=1)[:24] + gguf_bytes.text("a") + struct.pack("<I", 77) + bytes(64), "type 77"),
        (nested(100_000), "lists in lists"),
        (gguf_bytes.gguf((), [("a", (32,) * 5, 0, 0)], bytes(128)), "5 dimensions"),
        (gguf_bytes.gguf((), [("a", (32,), 0, 0)] * 2, bytes(128)), "one name"),
        (gguf_bytes.gguf((), [("a", (32,), 5, 0)], bytes(128)), ""),
        (gguf_bytes.gguf((), [("a", (32,), 1 << 31, 0)], bytes(128)), ""),
        (gguf_bytes.gguf((), [("a", (1 << 63, 1 << 63), 0, 0)], bytes(128)), "ends before its tensors"),
        (gguf_bytes.gguf((), [("a", (32,), 0, 1 << 63)], bytes(128)), "ends before its tensors"),
    ],
    ids=str,
)
def test_counts_and_lengths(data: bytes, match: str, tmp_path: Path) -> None:
    refused(tmp_path / "m.gguf", data, match)


@pytest.mark.parametrize("item", [gguf_bytes.U8, U32, STRING, ARRAY, U64])
@pytest.mark.parametrize("n", [1 << 23, 1 << 40, (1 << 64) - 1])
def test_lists_longer_than_any_model_has(item: int, n: int, tmp_path: Path) -> None:
    """The file is there, as zeros that take no room on the disk: memory is bounded all the same."""
    head = gguf_bytes.gguf(n_fields=1)[:24] + gguf_bytes.text("x") + struct.pack("<IIQ", ARRAY, item, n)
    (tmp_path / "m.gguf").write_bytes(head)
    os.truncate(tmp_path / "m.gguf", 1 << 30)
    tracemalloc.start()
    with pytest.raises(UnsupportedModelError, match="more than 4194304 values"):
        GGUF.open(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_text_of_gigabytes(tmp_path: Path) -> None:
    head = gguf_bytes.gguf(n_fields=1)[:24] + struct.pack("<Q", (1 << 30) - 32)
    (tmp_path / "m.gguf").write_bytes(head)
    os.truncate(tmp_path / "m.gguf", 1 << 30)
    with pytest.raises(UnsupportedModelError, match="more than 4194304 values"):
        GGUF.open(tmp_path / "m.gguf")


def test_weights_that_do_not_fill_their_shape(tmp_path: Path) -> None:
    """Half a block of q8_0 in each row."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes.gguf((), [("a", (48, 2), 8, 0)], bytes(128)))
    with pytest.raises(UnsupportedModelError, match="cannot be read as"):
        GGUF.open(tmp_path / "m.gguf").find("a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(UnsupportedModelError, match=path.name):
            GGUF.open(path)


@pytest.mark.parametrize(
    "field",
    [
        ("llama.block_count", STRING, "2"),
        ("llama.block_count", U32, 0),
        ("llama.block_count", U64, 1 << 62),
        ("llama.block_count", ARRAY, (U32, [2])),
        ("llama.attention.head_count", STRING, "x"),
        ("llama.attention.head_count", ARRAY, (U32, [4, 4, 5])),
        ("llama.attention.head_count", ARRAY, (gguf_bytes.F32, [0.5, 1.5])),
        ("llama.attention.head_count", U64, 1 << 62),
        ("llama.attention.head_count", ARRAY, (ARRAY, [(U32, [4])] * 2)),
        ("llama.attention.head_count_kv", STRING, "x"),
        ("llama.embedding_length", STRING, "x"),
        ("llama.embedding_length", ARRAY, (U32, [4])),
        ("general.architecture", ARRAY, (U32, [4])),
    ],
    ids=str,
)
def test_facts_that_no_model_has(field: gguf_bytes.Field, tmp_path: Path) -> None:
    others = [each for each in gguf_bytes.MODEL if each[0] != field[0]]
    (tmp_path / "m.gguf").write_bytes(gguf_bytes.gguf([*others, field]))
    with pytest.raises(UnsupportedModelError, match=r"m\.gguf"):
        Profile.uniform(tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModelError, match=r"m\.gguf"):
        ModelSizes.from_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "field",
    [
        ("llama.context_length", STRING, "x"),
        ("llama.context_length", ARRAY, (U32, [1, 2])),
        ("llama.feed_forward_length", STRING, "x"),
        ("llama.feed_forward_length", ARRAY, (U32, [])),
        ("llama.vocab_size", ARRAY, (U32, [4])),
        ("llama.attention.value_length", STRING, "x"),
    ],
    ids=str,
)
def test_sizes_that_no_model_has(field: gguf_bytes.Field, tmp_path: Path) -> None:
    others = [each for each in gguf_bytes.MODEL if each[0] != field[0]]
    (tmp_path / "m.gguf").write_bytes(gguf_bytes.gguf([*others, field]))
    with pytest.raises(UnsupportedModelError, match=r"m\.gguf"):
        ModelSizes.from_gguf(tmp_path / "m.gguf")
