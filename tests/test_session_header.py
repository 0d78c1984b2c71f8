"""What a stranger may write into a session's header, each digest right: a SessionError, and nothing is loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Tuple

import forged
import pytest
from logits import Case, prompt

from compresskv_edge import Llama
from compresskv_edge.errors import SessionError
from compresskv_edge.runtime.session import source
from compresskv_edge.runtime.session.header import describe, differences, hash_of
from compresskv_edge.runtime.session.session import Session

HOSTILE: List[Any] = [
    None, True, "", "x", "../../etc/passwd", "\0", "\ud800", "y" * 100_000, -1, 2**31, 2**63, 2**64, 10**39, -0.5, 0.5,
    1e308, float("nan"), float("inf"), [], {}, [[]], [None], ["x"], [-1], [2**31], [2**64], [1.5], {"x": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_gguf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tuple[Any, Any]:
    """Header and parts of a session with something in every field."""
    from compresskv_edge import Profile

    path = str(tiny_gguf("llama"))
    llm = Llama(path, kv_profile=Profile.uniform(path), kv_budget=50, n_ctx=512, n_threads=1, verbose=False)
    llm.protect([20, 21])
    llm._compression.protection.system = (1, 2)
    next(llm.generate(prompt(Case("", 100)), temp=0))
    target = tmp_path_factory.mktemp("whole") / "a.session"
    llm.save_session(target)
    return forged.unpack(target)


def places(value: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Any, ...]]:
    """Paths of all fields of an object, the items of lists left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))


def changed(header: Dict[str, Any], path: Tuple[Any, ...], value: Any) -> Dict[str, Any]:
    header = copy.deepcopy(header)
    place: Any = header
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return header


@pytest.fixture
def refuses(whole: Tuple[Any, Any], tmp_path: Path) -> Callable[..., None]:
    """Opening a file with another header is a SessionError before any model is loaded."""

    class NothingIsLoaded(Llama):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("loaded")

    def check(header: Any, match: str = "session", parts: Any = None) -> None:
        (tmp_path / "b.session").write_bytes(forged.pack(header, whole[1] if parts is None else parts))
        with pytest.raises(SessionError, match=match):
            NothingIsLoaded.load_session(tmp_path / "b.session")

    return check


def test_the_file_that_was_saved_opens(whole: Tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "b.session").write_bytes(forged.pack(*whole))
    assert Llama.load_session(tmp_path / "b.session", verbose=False).n_tokens == 100


def test_every_field_with_hostile_values(whole: Tuple[Any, Any], tmp_path: Path) -> None:
    """Read, or refused by name."""
    header, parts = whole
    n_read = n_refused = 0
    for path in places(header):
        for value in HOSTILE:
            (tmp_path / "b.session").write_bytes(forged.pack(changed(header, path, value), parts))
            try:
                Session.load(tmp_path / "b.session")
                n_read += 1
            except SessionError:
                n_refused += 1
    assert n_refused > 20 * n_read  # the few: a path, a name of a version, a seed that are as good as another


def test_every_field_left_out_or_added(whole: Tuple[Any, Any], refuses: Callable[..., None]) -> None:
    header, _ = whole
    for key in set(header) - {"n_sinks"}:
        refuses({name: value for name, value in header.items() if name != key}, key)
    refuses({**header, "more": 1}, "more")
    for place in ("options", "context"):
        refuses({**header, place: {**header[place], "more": 1}}, "more")


@pytest.mark.parametrize(
    "option",
    [
        {"rpc_servers": "192.0.2.1:50052"},
        {"model_path": "/etc/passwd"},
        {"kv_profile": "/etc/passwd"},
        {"kv_overrides": {"x": 1}},
        {"chat_handler": "x"},
        {"n_gpu_layers": -1},
        {"logits_all": True},
        {"type_k": 200},
        {"n_ctx": 1 << 40},
        {"kv_tail": 1 << 40},
        {"kv_budget": -1},
        {"kv_budget": 1.5},
        {"kv_prefill": "nonsense"},
    ],
)
def test_options_that_a_file_may_not_choose(
    option: Dict[str, Any], whole: Tuple[Any, Any], refuses: Callable[..., None]
) -> None:
    header, _ = whole
    context = {name: value for name, value in option.items() if name in header["context"]}
    changes = {"options": {**header["options"], **option}, "context": {**header["context"], **context}}
    refuses({**header, **changes}, next(iter(option)))


def test_the_hash_comes_before_the_model(
    whole: Tuple[Any, Any], refuses: Callable[..., None], tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    header, _ = whole
    refuses({**header, "model_path": str(tiny_gguf("llama", seed=1))}, "another model")
    refuses({**header, "model_hash": "sha256:" + "0" * 64}, "another model")
    (tmp_path / "no.gguf").write_bytes(b"no model")
    refuses({**header, "model_path": str(tmp_path / "no.gguf")}, "cannot be read")


@pytest.mark.parametrize("path", ["//192.0.2.1/share/m.gguf", r"\\192.0.2.1\share\m.gguf", "/dev/zero", "a\0b", ""])
def test_paths_that_are_no_file_of_this_machine(
    path: str, whole: Tuple[Any, Any], refuses: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: List[str] = []
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: asked.append(str(self)) or real(self))
    refuses({**whole[0], "model_path": path}, "say where it is with model_path")
    assert not any("192.0.2.1" in each for each in asked)  # to look would send Windows' password hash there


def test_a_lora_is_named_by_the_caller(
    whole: Tuple[Any, Any], refuses: Callable[..., None], tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    """The file's own path is never opened, and the caller's must be the one that was saved."""
    header, parts = whole
    options = {**header["options"], "lora_path": "/dev/zero", "lora_scale": 0.5}
    refuses({**header, "options": options}, "LoRA '/dev/zero': say where it is with lora_path")
    (tmp_path / "c.session").write_bytes(forged.pack({**header, "options": options}, parts))
    lora = str(tiny_gguf("llama", seed=1))  # any GGUF has a hash
    with pytest.raises(SessionError, match=r"another model: .* and the LoRA '/dev/zero', this is .* and the LoRA"):
        Llama.load_session(tmp_path / "c.session", lora_path=lora, verbose=False)
    given = {}

    class Loaded(Exception):
        pass

    class Told(Llama):
        def __init__(self, path: str, **options: Any) -> None:
            given.update(options)
            raise Loaded

    header = {**header, "options": options, "model_hash": hash_of(header["model_path"], lora, 0.5)}
    (tmp_path / "c.session").write_bytes(forged.pack(header, parts))
    with pytest.raises(Loaded):
        Told.load_session(tmp_path / "c.session", lora_path=lora)
    assert (given["lora_path"], given["lora_scale"]) == (lora, 0.5)


def test_headers_that_are_no_header(whole: Tuple[Any, Any], refuses: Callable[..., None]) -> None:
    _, parts = whole
    for text in (b"", b"null", b"[]", b"{}", b"[" * 200_000, b'{"parts":' * 100_000, b"\xff", b"9" * 100_000):
        refuses(text)
    refuses(json.dumps({**whole[0], "parts": forged.sums(parts)}).encode() + b" " * (16 << 20))


def test_parts_that_are_no_parts(whole: Tuple[Any, Any], refuses: Callable[..., None]) -> None:
    header, parts = whole
    good = forged.sums(parts)
    wrong: List[Any] = [None, {}, 1, [], good[:2], good * 2, good * 1000, [*good, {}], [[]], ["tokens"]]
    for field in ("name", "n_bytes", "blake2b"):
        wrong += [[{**good[0], field: value}, *good[1:]] for value in HOSTILE]
        wrong += [[{name: value for name, value in good[0].items() if name != field}, *good[1:]]]
    for each in wrong:
        refuses({**header, "parts": each})
    for name in parts:
        refuses(header, parts={key: value for key, value in parts.items() if key != name})
    refuses(header, parts={**parts, "more": b""})
    refuses(header, parts={**parts, "tokens": parts["tokens"][:-1]})


def test_the_stock_cache_is_not_as_large_as_a_file_says(
    tiny_gguf: Callable[..., Path], refuses: Callable[..., None], tmp_path: Path
) -> None:
    llm = Llama(str(tiny_gguf("llama")), n_ctx=512, n_threads=1, verbose=False)
    llm.eval(prompt(Case("", 100)))
    llm.save_session(tmp_path / "a.session")
    header, parts = forged.unpack(tmp_path / "a.session")
    refuses({**header, "options": {**header["options"], "n_ctx": 1 << 24}}, "give n_ctx", parts)


@pytest.mark.parametrize("policy", ["nonsense", "snapkv:window=9999999", "snapkv:window=x", "compresskv+nonsense"])
def test_policies_that_are_not_known_here(
    policy: str, whole: Tuple[Any, Any], load: Callable[..., Llama], tmp_path: Path
) -> None:
    header, parts = whole
    (tmp_path / "b.session").write_bytes(forged.pack(changed(header, ("options", "kv_policy"), policy), parts))
    with pytest.raises(SessionError, match=r"kv_policy|window"):
        load().load_session(tmp_path / "b.session")
    with pytest.raises(SessionError):
        Llama.load_session(tmp_path / "b.session", verbose=False)


def test_the_same_file_with_another_lora_is_not_named_twice(load: Any) -> None:
    llm = load()
    llm.eval([65, 66])
    other = describe(llm).model_copy(update={"model_hash": "sha256:" + "0" * 64})
    (said,) = differences(llm, other)
    assert said.count(llm.model_path) == 1
    assert "another LoRA, lora_scale or kv_overrides" in said
    (said,) = differences(llm, other.model_copy(update={"model_path": "elsewhere.gguf"}))
    assert "saved with 'elsewhere.gguf'" in said


def test_a_path_that_is_too_long_for_the_system_is_not_there() -> None:
    header = SimpleNamespace(model_path="y" * 5000)
    with pytest.raises(SessionError, match="is not there: say where it is with model_path") as caught:
        source.model_path(header)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500
