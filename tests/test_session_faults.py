"""Saving a session where something fails, for each thing that can: the file is the old one, the model goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest

from compresskv_edge import Llama, Profile, files
from compresskv_edge.errors import SessionError
from compresskv_edge.model.random_gguf import TINY_SHAPES, write_random_gguf

PROMPT = np.random.default_rng(12).integers(32, 127, 300).tolist()
OLD = b"what was saved before"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits by /proc and setrlimit")


@pytest.fixture
def llm(tiny_gguf: Callable[..., Path]) -> Llama:
    path = tiny_gguf("llama")
    kv = {"kv_profile": Profile.uniform(path), "kv_budget": 60, "kv_tail": 64}
    llm = Llama(str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False, **kv)
    llm.eval(PROMPT)
    llm.compress()
    return llm


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.session"
    path.write_bytes(OLD)
    return path


def goes_on(llm: Llama) -> List[int]:
    """Ten more tokens, from the same place each time."""
    n_tokens = llm.n_tokens
    llm.eval(PROMPT[:10])
    kept = [llm.kv_kept(il).tolist() for il in range(3)]
    llm.n_tokens = n_tokens
    return kept[0] + kept[1] + kept[2]


def is_unchanged(file: Path) -> bool:
    return file.read_bytes() == OLD and os.listdir(file.parent) == [file.name]


class System:
    """The calls by which a file is written; the N-th fails."""

    def __init__(self, nth: int, error: int) -> None:
        self.nth, self.error, self.seen = nth, error, []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "fdopen", "fsync", "replace", "chmod"):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.count(name)
            return _File(self, real(*args, **kwargs)) if name == "fdopen" else real(*args, **kwargs)

        return call

    def count(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) == self.nth:
            raise OSError(self.error, os.strerror(self.error))


class _File:
    """Each piece that is written is a call of the system."""

    def __init__(self, system: System, file: Any) -> None:
        self._system, self._file = system, file

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, piece: Any) -> int:
        self._system.count("write")
        return int(self._file.write(piece))


def saving(llm: Llama, file: Path, system: System, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the error says; "" if there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", system)
        try:
            llm.save_session(file)
        except SessionError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_the_nth_call_of_the_system(error: int, llm: Llama, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, failed = goes_on(llm), []
    for n in itertools.count(1):
        system = System(n, error)
        said = saving(llm, file, system, monkeypatch)
        assert goes_on(llm) == expected
        if not said:
            break
        assert os.strerror(error) in said
        assert "what was there before is unchanged" in said
        assert is_unchanged(file)
        failed.append(system.seen[-1])
    assert {"open", "fdopen", "write", "fsync", "replace", "chmod"} == set(failed)
    assert failed.count("write") > 6  # head, digest, padding and parts
    assert system.seen[-1] == "open"  # of the folder, when the file was replaced
    assert llm.load_session(file).n_tokens == len(PROMPT)


@contextlib.contextmanager
def limited(name: str, value: int) -> Iterator[None]:
    import resource

    kind = getattr(resource, name)
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@on_linux
def test_a_write_that_is_cut_short(llm: Llama, file: Path) -> None:
    """By the system, in the middle of a block."""
    expected = goes_on(llm)
    other = file.with_name("b.session")
    llm.save_session(other)
    n_bytes = other.stat().st_size
    other.unlink()
    for limit in (0, 1, 100, n_bytes // 2, n_bytes - 1):
        with limited("RLIMIT_FSIZE", limit), pytest.raises(SessionError, match="File too large; what was there before"):
            llm.save_session(file)
        assert is_unchanged(file)
        assert goes_on(llm) == expected
    with limited("RLIMIT_FSIZE", n_bytes):
        llm.save_session(file)
    assert llm.load_session(file).n_tokens == len(PROMPT)


@on_linux
def test_no_memory_for_a_copy(tmp_path: Path) -> None:
    """Neither to save nor to load, which keeps what is there until the new state is in."""
    shape = dataclasses.replace(TINY_SHAPES["llama"], name="wide", n_head=16, n_head_kv=16, head_dim=128)
    path = write_random_gguf(tmp_path / "wide.gguf", shape)
    llm = Llama(str(path), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False, type_k=0, type_v=0)
    llm.eval(PROMPT * 6)
    file, other = tmp_path / "a.session", tmp_path / "b.session"
    file.write_bytes(OLD)
    llm.save_session(other)
    llm.eval(PROMPT[:1])
    n_tokens, state = llm.n_tokens, other.stat().st_size
    assert state > 64 << 20, "smaller ones could come from what the heap of a long run has left over"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with limited("RLIMIT_AS", used + state // 4):
        with pytest.raises(SessionError, match=r"no memory for a copy of the cache, \d+ bytes"):
            llm.save_session(file)
        with pytest.raises(SessionError, match=r"cannot read session .* Cannot allocate memory"):
            llm.load_session(other)
    # the file fits, a copy of what is there does not
    with limited("RLIMIT_AS", used + state + state // 4), pytest.raises(SessionError, match="no memory for a copy"):
        llm.load_session(other)
    assert file.read_bytes() == OLD
    assert llm.n_tokens == n_tokens
    llm.eval(PROMPT[:1])
    llm.save_session(file)
    assert llm.load_session(other).n_tokens == len(PROMPT) * 6
    assert llm.load_session(file).n_tokens == n_tokens + 1
