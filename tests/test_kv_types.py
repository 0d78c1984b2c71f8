"""Bytes of rows of keys and values."""

from __future__ import annotations

from compresskv_edge.model.kv_types import ggml_type, row_bytes


def test_row_bytes() -> None:
    assert row_bytes(128, "f16") == row_bytes(128, "bf16") == 256
    assert row_bytes(128, "f32") == 512
    assert row_bytes(128, "q8_0") == 4 * 34
    assert row_bytes(128, "q4_0") == 4 * 18


def test_types_are_those_of_the_binding() -> None:
    from compresskv_edge.runtime.llama import llama_cpp

    assert (int(ggml_type("f16")), int(ggml_type("q8_0"))) == (llama_cpp.GGML_TYPE_F16, llama_cpp.GGML_TYPE_Q8_0)
