"""The session's file: every byte is checked, and a kill leaves the old file or the new one."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logits import Case, prompt

from compresskv_edge import Llama
from compresskv_edge.errors import SessionError
from compresskv_edge.runtime.session import file as session_file

PARTS = {"tokens": np.arange(5, dtype="<i4"), "logits": np.zeros(0, "<f4"), "state": np.arange(251, dtype=np.uint8)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    session_file.write(tmp_path / "a.session", {"name": "test"}, PARTS)
    return tmp_path / "a.session"


def damaged(file: Path, data: bytes, match: str = "session") -> None:
    file.write_bytes(data)
    with pytest.raises(SessionError, match=match):
        session_file.read(file)
    assert file.read_bytes() == data


def test_round_trip(file: Path) -> None:
    header, parts = session_file.read(file)
    assert header["name"] == "test"
    for name, part in PARTS.items():
        np.testing.assert_array_equal(parts[name].view(part.dtype), part)
        assert parts[name].ctypes.data % 64 == 0 or not part.nbytes


def test_every_byte_counts(file: Path) -> None:
    good = file.read_bytes()
    for i in range(len(good)):
        damaged(file, good[:i] + bytes([good[i] ^ (1 + i % 255)]) + good[i + 1 :])


def test_every_length_counts(file: Path) -> None:
    good = file.read_bytes()
    for n in range(len(good)):
        damaged(file, good[:n])
    damaged(file, good + b"\0", rf"has {len(good) + 1} of {len(good)} bytes")


def test_foreign_and_newer_files(file: Path, path: str) -> None:
    good = file.read_bytes()
    damaged(file, Path(path).read_bytes()[:5000], "no session of compresskv_edge")
    damaged(file, b"", "no session of compresskv_edge")
    damaged(file, good[:8] + (2).to_bytes(4, "little") + good[12:], r"has format 2, .* --upgrade")
    with pytest.raises(SessionError, match=r"cannot read session .*No such file"):
        session_file.read(file.with_name("none"))


@pytest.fixture(scope="module")
def whole(tiny_gguf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session of a model."""
    path = str(tiny_gguf("llama"))
    llm = Llama(path, kv_profile={**_uniform(path)}, kv_budget=50, n_ctx=1024, n_threads=1, verbose=False)
    next(llm.generate(prompt(Case("", 300)), temp=0))
    target = tmp_path_factory.mktemp("whole") / "a.session"
    llm.save_session(target)
    return target


def _uniform(path: str) -> dict[str, object]:
    from compresskv_edge import Profile

    return Profile.uniform(path).model_dump(mode="json", exclude_none=True)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_flipped_byte_of_a_models_session(whole: Path, tmp_path: Path, where: float, change: int) -> None:
    data = bytearray(whole.read_bytes())
    data[int(where * len(data))] ^= change
    damaged(tmp_path / "b.session", bytes(data))


#
# writing
#


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = file.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _no_space)
            with pytest.raises(SessionError, match=r"No space left.*what was there before is unchanged"):
                session_file.write(file, {"name": "new"}, PARTS)
        assert file.read_bytes() == good
        assert list(file.parent.iterdir()) == [file]
    with pytest.raises(SessionError, match="cannot write session"):
        session_file.write(file.parent, {"name": "new"}, PARTS)


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_mode_and_links(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    link = file.with_name("link")
    link.symlink_to(file)
    session_file.write(link, {"name": "new"}, PARTS)
    assert link.is_symlink()
    assert session_file.read(file)[0]["name"] == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


WRITER = """
import os, signal, sys
import numpy as np
from compresskv_edge.runtime.session import file as session_file

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

path, where, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if where != "loop":
    module, name, when = where.split(".")
    real, left = getattr(os, name), [count]
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and when == "before": die()
        result = real(*args, **kwargs)
        if left[0] == 0: die()
        return result
    setattr(os, name, call)
state = np.full(3_000_000, 7, np.uint8)
print("ready", flush=True)
while True:
    session_file.write(path, {"name": "new"}, {"state": state})
    if where != "loop": break
"""


def _name(file: Path) -> str:
    return str(session_file.read(file)[0]["name"])


@pytest.mark.parametrize(
    ("where", "count", "names"),
    [
        ("os.fdopen.after", 1, {"test"}),
        ("os.chmod.after", 1, {"test"}),
        ("os.fsync.before", 1, {"test"}),
        ("os.fsync.after", 1, {"test"}),
        ("os.replace.before", 1, {"test"}),
        ("os.replace.after", 1, {"new"}),
        ("os.fsync.before", 2, {"new"}),
        ("os.fsync.after", 2, {"new"}),
    ],
)
def test_killed_at_a_step(where: str, count: int, names: set[str], file: Path) -> None:
    run = subprocess.run([sys.executable, "-c", WRITER, str(file), where, str(count)], capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert _name(file) in names


def test_killed_at_any_time(file: Path) -> None:
    seen = set()
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file), "loop", "0"], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(random.uniform(0, 0.05))
            run.kill()
        seen.add(_name(file))
    assert seen <= {"test", "new"}
