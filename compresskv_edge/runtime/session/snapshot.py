"""The cache on disk: llama.cpp's state of one sequence, with its tokens, streamed to and from a file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import platformdirs

from ...errors import EngineError
from .. import binding
from ..binding import llama_cpp
from ..prefill import Opened
from ..prompt import common_prefix


def write(llm: Opened, path: Path) -> None:
    """Write the cache of a model. Raises EngineError if the disk does not take it."""
    tokens = (llama_cpp.llama_token * llm.n_tokens)(*llm.input_ids[: llm.n_tokens].tolist())
    if not llama_cpp.llama_state_seq_save_file(llm.ctx, os.fsencode(path), 0, tokens, llm.n_tokens):
        path.unlink(missing_ok=True)
        raise EngineError(f"cannot write the cache to {str(path)!r}: is the disk full?")


def restore(llm: Opened, path: Path) -> None:
    """Back from write(), into a context of the same model and profile. Raises EngineError; the cache is then empty."""
    tokens, count = (llama_cpp.llama_token * llm.n_ctx())(), ctypes.c_size_t()
    llm.reset()
    binding.clear_cache(llm)
    read = llama_cpp.llama_state_seq_load_file(llm.ctx, os.fsencode(path), 0, tokens, len(tokens), ctypes.byref(count))
    if not read:
        binding.clear_cache(llm)
        raise EngineError(f"cannot restore the cache of {str(path)!r}: it is damaged, or of another model or profile")
    llm.input_ids[: count.value] = tokens[: count.value]
    llm.n_tokens = count.value
    if llm._reader is not None:
        llm._reader.compression.run.recorder.forget()  # queries of other tokens, for policies that see them


class Snapshot:
    """A cache kept for later, in a file of its own that is gone with the object; `tokens` are what it holds."""

    def __init__(self) -> None:
        self._path: Optional[Path] = None
        self.tokens: list[int] = []

    def take(self, llm: Opened) -> None:
        """Keep the cache as it is now. Raises EngineError."""
        self.drop()
        path = _new_file()
        write(llm, path)
        self._path, self.tokens = path, llm.input_ids[: llm.n_tokens].tolist()

    def fits(self, prompt: Sequence[int]) -> bool:
        """The prompt begins with what the snapshot holds."""
        return self._path is not None and len(prompt) > len(self.tokens) == common_prefix(self.tokens, prompt)

    def put_back(self, llm: Opened) -> None:
        """The cache as it was. Raises EngineError."""
        if self._path is not None:
            restore(llm, self._path)

    def drop(self) -> None:
        """Forget it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._path, self.tokens = None, []

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be half gone
            self.drop()


def _new_file() -> Path:
    """In the user's cache folder: /tmp may lie in memory. Files of processes that were killed are removed."""
    folder = platformdirs.user_cache_path("compresskv", appauthor=False) / "documents"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.state"):
            if not _runs(int(old.name.partition("-")[0])):
                old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".state", dir=folder)
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot write to {str(folder)!r}: {error}") from error
    os.close(handle)
    return Path(name)


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # os.kill would send Ctrl-C
        query, still_active = 0x1000, 259  # PROCESS_QUERY_LIMITED_INFORMATION, STILL_ACTIVE
        kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()
        process = kernel.OpenProcess(query, False, pid)
        known = bool(process) and kernel.GetExitCodeProcess(process, ctypes.byref(code))
        kernel.CloseHandle(process)
        return bool(known) and code.value == still_active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
