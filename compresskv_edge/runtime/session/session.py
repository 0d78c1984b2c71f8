"""Sessions: what a `Llama` has read, as an object and as a file, so that it is read once.

llm.save_session("manual.session")                  # a few MB
llm = Llama.load_session("manual.session")          # another day: milliseconds instead of the prefill
llm.load_session("manual.session")                  # or into an instance that is there
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from ...engine import native
from ...errors import CompressKVError, ContextError, SessionError
from .. import binding
from ..binding import llama_cpp
from ..compression import Compression
from ..prefill import Opened, compression_of
from . import body, state
from . import file as session_file
from . import source as source_of
from .header import Header, describe, differences, saved_policy

SessionSource = Union[str, "os.PathLike[str]", "Session"]


@dataclass(frozen=True)
class Session:
    """Tokens, their part of the cache, and what the next token is drawn from.

    `tokens` (n_tokens,), `logits` (n_vocab,) of the last token or (0,), `state` bytes of llama.cpp.
    """

    header: Header
    tokens: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    state: npt.NDArray[np.uint8]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Session:
        """Map a file and check every byte. Raises SessionError."""
        name = f"session {os.fspath(path)!r}"
        header, parts = session_file.read(path)
        if set(parts) != {"tokens", "logits", "state"} or parts["tokens"].size % 4 or parts["logits"].size % 4:
            raise SessionError(f"{name} has other parts than this version reads: save the session anew")
        tokens, logits = parts["tokens"].view("<i4"), parts["logits"].view("<f4")
        return cls(Header.parse(header, name), tokens, logits, parts["state"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; a kill at any moment leaves the old one or the new one. Raises SessionError."""
        parts = {"tokens": self.tokens.astype("<i4"), "logits": self.logits.astype("<f4"), "state": self.state}
        session_file.write(path, self.header.model_dump(mode="json"), parts)


def capture(llm: Opened) -> Session:
    """What `llm` holds now, as a copy. Raises SessionError if that is nothing."""
    if llm.n_tokens == 0:
        raise SessionError("there is nothing to save: evaluate a prompt first")
    tokens = np.array(binding.text_of(llm), dtype=np.int32)
    return Session(describe(llm), tokens, last_logits(llm), _get_state(llm))


def restore(llm: Opened, session: Session) -> None:
    """Make `llm` what the saved one was. Raises SessionError and leaves it as it was if the session does not fit."""
    _check(llm, session)
    before = capture(llm) if llm.n_tokens else None
    wrong = state.problem(
        state.Model.of(llm), session.state, _get_state(llm) if before is None else before.state, len(session.tokens)
    )
    if wrong:
        raise SessionError(f"the session's state cannot be restored: {wrong}. Save the session anew")
    if not _set_state(llm, session.state):
        llm.reset()
        if before is None or not _set_state(llm, before.state):
            raise SessionError(f"{_refused(session)}. The instance is empty now: evaluate its prompt again")
        llm.n_tokens = len(before.tokens)
        raise SessionError(_refused(session))
    _adopt(llm, session)


def open_session(
    cls: Any, source: SessionSource, model_path: Union[str, os.PathLike[str], None] = None, **options: Any
) -> Any:
    """`Llama.load_session(path)`: a new instance that goes on where the saved one was.

    source: a file that `save_session` wrote, or a Session.
    model_path: the model, if it lies elsewhere now.
    **options: as for the class, where they shall differ from the saved ones (n_ctx, kv_* and KV types).

    Raises SessionError if the file is damaged, foreign or of another version, or model or profile are others.
    """
    session = _load(source)
    header = session.header
    path = source_of.model_path(header) if model_path is None else os.fspath(model_path)
    arguments = source_of.arguments(header, path, options)
    try:
        llm = cls(path, **arguments)
    except (CompressKVError, ValueError) as error:
        if options:
            raise
        raise SessionError(f"the model cannot be loaded as the session asks: {error}") from error
    try:
        restore(llm, session)
    except BaseException:
        llm.close()
        raise
    return llm


class LoadSession:
    """`Llama.load_session(path, ...)` opens an instance, `llm.load_session(path)` takes the session in."""

    def __get__(self, llm: Optional[Opened], cls: Any) -> Callable[..., Any]:
        def load_session(source: SessionSource, *args: Any, **options: Any) -> Any:
            """A new instance from a session (on the class), or this one with what the session holds (on an instance).

            See `open_session` of this module. An instance takes the source only. Raises SessionError.
            """
            if llm is None:
                return open_session(cls, source, *args, **options)
            if args or options:
                raise SessionError("an instance has its model already: llm.load_session(path), without more arguments")
            loaded = _load(source)
            with llm._turn.call():
                restore(llm, loaded)
            return llm

        return load_session


def _load(source: SessionSource) -> Session:
    return source if isinstance(source, Session) else Session.load(source)


#
# the state
#


def _check(llm: Opened, session: Session) -> None:
    problems = list(differences(llm, session.header)) or list(body.problems(llm, session))
    if problems:
        raise SessionError("the session does not fit:\n" + "\n".join(f"  {problem}" for problem in problems))
    if session.header.n_tokens >= llm.n_ctx():
        raise SessionError(
            f"the session holds {len(session.tokens)} tokens, n_ctx is {llm.n_ctx()}: load the model with a larger one"
        )


def _bytes_at(array: npt.NDArray[np.uint8]) -> Any:
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(ctypes.c_uint8))


def _get_state(llm: Opened) -> npt.NDArray[np.uint8]:
    size = llama_cpp.llama_state_get_size(llm.ctx)
    try:
        data = np.empty(size, np.uint8)
    except MemoryError:
        raise SessionError(
            f"no memory for a copy of the cache, {size} bytes: compress it first, or free some"
        ) from None
    n_bytes = llama_cpp.llama_state_get_data(llm.ctx, _bytes_at(data), data.nbytes)
    if not 0 < n_bytes <= data.nbytes:
        raise SessionError("llama.cpp could not copy its state: see its log with verbose=True")
    return data[:n_bytes]


def _set_state(llm: Opened, state: npt.NDArray[np.uint8]) -> bool:
    return bool(llama_cpp.llama_state_set_data(llm.ctx, _bytes_at(state), state.nbytes) == state.nbytes)


def _refused(session: Session) -> str:
    return (
        f"llama.cpp could not restore the session's {session.state.nbytes} bytes of state, saved by compresskv_edge "
        f"{session.header.package} (little memory, or another layout): see its log with verbose=True, or save it anew"
    )


def _adopt(llm: Opened, session: Session) -> None:
    n, header = len(session.tokens), session.header
    llm.input_ids[:n] = session.tokens
    llm.n_tokens = n
    llm.set_seed(header.seed)
    binding.set_evaluated(llm, session.logits.size > 0)
    llm._restored_logits = session.logits.copy() if session.logits.size else None
    if binding.keeps_all_logits(llm):
        llm.scores[:n] = 0  # not in the file
        llm.scores[n - 1] = session.logits if session.logits.size else 0
    compression = compression_of(llm)
    if compression is not None:
        _adopt_compression(llm, compression, session)


def _adopt_compression(llm: Opened, compression: Compression, session: Session) -> None:
    header, protection = session.header, compression.protection
    compression.run.recorder.forget()  # what it knows is of another text
    same = saved_policy(header) == compression.settings.policy
    compression.current = list(header.budgets) if same else []  # another policy chooses its own
    protection.named, protection.system = tuple(header.protected), tuple(header.system_tokens)
    protection.n_sinks = header.n_sinks
    protection.begin(session.tokens.tolist())
    native.protect(llm.ctx, compression.protected)


#
# what the next token is drawn from
#


def last_logits(llm: Opened) -> npt.NDArray[np.float32]:
    """Logits of the last token, a copy: (n_vocab,), or (0,) if it has to be evaluated again."""
    restored = llm._restored_logits
    if restored is not None:
        return np.array(restored, dtype=np.float32)
    return binding.last_logits(llm)


def draw(sampler: Any, logits: npt.NDArray[np.float32]) -> int:
    """What llama_sampler_sample does, with logits that were restored: llama.cpp's own belong to a decoded token."""
    data = (llama_cpp.llama_token_data * len(logits))()
    rows = np.frombuffer(data, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    rows["id"], rows["logit"] = np.arange(len(logits)), logits
    candidates = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
    llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(candidates))
    if not 0 <= candidates.selected < candidates.size:
        raise ContextError("the sampler chose no token: it needs a last step such as greedy or dist")
    token = int(candidates.data[candidates.selected].id)
    sampler.accept(token)
    return token
