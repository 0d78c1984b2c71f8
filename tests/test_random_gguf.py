import json
import math
from dataclasses import replace

import gguf
import numpy as np
import pytest
from conftest import ISWA_ARCHS, PLAIN_ARCHS, UNSUPPORTED_ARCHS

from compresskv_edge import Llama
from compresskv_edge.model.random_gguf import BOS, EOS, SHAPES, TINY_SHAPES, n_parameters, write_random_gguf

ALL_ARCHS = PLAIN_ARCHS + ISWA_ARCHS + UNSUPPORTED_ARCHS


def read(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def load(path, **kwargs):
    return Llama(str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False, **kwargs)


def last_logits(llm, tokens):
    llm.reset()
    llm.eval(tokens)
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), (llm.n_vocab(),)).copy()


@pytest.fixture(scope="module")
def llm(tiny_gguf):
    return load(tiny_gguf("llama"))


def test_every_tiny_shape_is_in_one_list():
    assert sorted(ALL_ARCHS) == sorted(TINY_SHAPES)


@pytest.mark.parametrize("name", ALL_ARCHS)
def test_metadata_is_the_shape(name, tiny_gguf):
    shape = TINY_SHAPES[name]
    fields, tensors = read(tiny_gguf(name))
    assert fields["general.architecture"] == shape.arch
    assert fields[f"{shape.arch}.block_count"] == shape.n_layer
    assert fields[f"{shape.arch}.embedding_length"] == shape.n_embd
    assert fields[f"{shape.arch}.attention.head_count"] == shape.n_head
    assert len(fields["tokenizer.ggml.tokens"]) == len(set(fields["tokenizer.ggml.tokens"])) == shape.n_vocab
    assert sum(math.prod(map(int, t.shape)) for t in tensors.values()) == n_parameters(shape)


@pytest.mark.parametrize("name", ALL_ARCHS)
def test_weights_are_finite_and_differ_between_layers(name, tiny_gguf):
    _, tensors = read(tiny_gguf(name))
    assert all(np.isfinite(t.data).all() for t in tensors.values())
    firsts = [t.data for t in tensors.values() if ".0." in t.name]
    lasts = [t.data for t in tensors.values() if f".{TINY_SHAPES[name].n_layer - 1}." in t.name]
    assert firsts
    assert lasts
    assert not any(a.shape == b.shape and np.array_equal(a, b) for a in firsts for b in lasts)


@pytest.mark.parametrize(("name", "n_params"), [
    ("qwen2.5-0.5b", 494_032_768),
    ("qwen2.5-1.5b", 1_543_714_304),
    ("qwen3-0.6b", 596_049_920),
    ("llama-3.2-1b", 1_235_814_400 + 32),  # the frequency factors are not counted as parameters elsewhere
    ("gemma-3-1b", 999_885_952),
])  # fmt: skip
def test_named_shapes_have_the_published_number_of_parameters(name, n_params):
    assert n_parameters(SHAPES[name]) == n_params


def test_full_attention_layers():
    assert TINY_SHAPES["llama"].full_attention_layers() == (0, 1, 2)
    assert TINY_SHAPES["gemma2"].full_attention_layers() == (1, 3)
    assert TINY_SHAPES["gemma3"].full_attention_layers() == (5, 11)


@pytest.mark.parametrize("quant", ["F32", "F16", "Q8_0", "Q4_0"])
def test_bytes_follow_the_seed(quant, tmp_path):
    paths = [
        write_random_gguf(tmp_path / f"{i}.gguf", TINY_SHAPES["qwen2"], quant=quant, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    first, same, other = (path.read_bytes() for path in paths)
    assert first == same
    assert len(first) == len(other)
    assert first != other


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0"])
def test_quantised_weights_have_the_statistics_of_the_float_ones(quant, tiny_gguf):
    _, floats = read(tiny_gguf("llama"))
    _, tensors = read(tiny_gguf("llama", quant))
    matrix = tensors["blk.1.attn_q.weight"]
    assert matrix.tensor_type.name == quant
    assert tensors["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    assert tensors["token_embd.weight"].tensor_type.name == ("Q8_0" if quant == "Q4_0" else quant)
    values = gguf.quants.dequantize(matrix.data, matrix.tensor_type)
    std = floats[matrix.name].data.std()
    assert values.std() == pytest.approx(std, rel=0.03)
    assert abs(values.mean()) < 0.03 * std


def test_queries_and_keys_are_scaled_up(tiny_gguf):
    _, apart = read(tiny_gguf("llama"))
    assert apart["blk.0.attn_k.weight"].data.std() > 1.4 * apart["blk.0.attn_v.weight"].data.std()
    _, fused = read(tiny_gguf("phi3"))
    q, k, v = np.split(fused["blk.0.attn_qkv.weight"].data, 3)
    assert min(q.std(), k.std()) > 1.4 * v.std()


@pytest.mark.parametrize("name", PLAIN_ARCHS + ISWA_ARCHS)
def test_logits_are_finite_and_depend_on_the_whole_prompt(name, tiny_gguf, text):
    llm = load(tiny_gguf(name))
    tokens = llm.tokenize(text.encode())[:600]
    logits = last_logits(llm, tokens)
    assert len(tokens) == 600
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 5
    np.testing.assert_array_equal(last_logits(llm, tokens), logits)
    early = [tokens[0], *reversed(tokens[1:200]), *tokens[200:]]  # beyond every sliding window
    assert np.abs(last_logits(llm, early) - logits).max() > 1e-2
    assert np.abs(last_logits(llm, tokens[:-1]) - logits).max() > 1


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0"])
def test_quantised_models_work(quant, tiny_gguf, text):
    llm = load(tiny_gguf("qwen2", quant))
    logits = last_logits(llm, llm.tokenize(text.encode())[:600])
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 5


@pytest.mark.parametrize("name", UNSUPPORTED_ARCHS)
def test_models_to_be_refused_load_without_a_profile(name, tiny_gguf):
    assert load(tiny_gguf(name)).n_vocab() == TINY_SHAPES[name].n_vocab


def test_tokenizer_round_trips_any_text(llm, text):
    for sample in (text, "Grüße, 世界!\n\t  two  spaces\r\n\x00 \x7f</s>"):
        tokens = llm.tokenize(sample.encode())
        assert tokens[0] == BOS
        assert llm.detokenize(tokens) == sample.encode()


def test_prose_has_20_000_tokens(llm, text):
    assert len(llm.tokenize(text.encode())) >= 20_000


def test_greedy_completion_goes_on_for_as_long_as_asked(llm):
    done = llm.create_completion("The miller", max_tokens=200, temperature=0)
    assert llm.token_eos() == EOS
    assert done["choices"][0]["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] >= 200  # a few more where the last one is half a UTF-8 character


def test_chat_and_json_grammar_work(llm):
    schema = {
        "type": "object",
        "properties": {"open": {"type": "boolean"}},
        "required": ["open"],
        "additionalProperties": False,
    }
    done = llm.create_chat_completion(
        [{"role": "user", "content": "Is it open?"}],
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_object", "schema": schema},
    )
    assert isinstance(json.loads(done["choices"][0]["message"]["content"])["open"], bool)


@pytest.mark.parametrize(("change", "quant", "message"), [
    ({"arch": "rwkv9"}, "F32", "'rwkv9'.*llama"),
    ({}, "Q5_0", "'Q5_0'.*Q8_0"),
    ({"n_vocab": 200}, "F32", "200.*needs"),
])  # fmt: skip
def test_errors_name_the_value_and_the_remedy(change, quant, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_random_gguf(tmp_path / "x.gguf", replace(TINY_SHAPES["llama"], **change), quant=quant)
