"""kv_profile="auto": the shipped profile of a model, else the one of an earlier day, else calibrate now, once."""

from __future__ import annotations

import dataclasses
import logging
import random
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ..errors import CalibrationError, ProfileError
from ..model import known
from ..model.facts import ModelFacts
from ..model.gguf_file import GGUF
from ..model.profile import Profile
from .corpus import Corpus, PathLike
from .engine import Engine
from .progress import bar
from .prompts import QUESTION_TOKENS, QUICK, THOROUGH, Plan
from .runner import Runner, fit_to_context, open_engine
from .state import State

TARGET_SECONDS = 180.0

# what a calibration may be, from the least that ranks heads at all to the most that is worth while
_SIZES = (
    Plan(n_documents=2, n_error_documents=1, min_tokens=256, max_tokens=384),
    Plan(n_documents=3, n_error_documents=1, min_tokens=256, max_tokens=768),
    Plan(n_documents=4, n_error_documents=2, min_tokens=384, max_tokens=1024),
    Plan(n_documents=6, n_error_documents=3, max_tokens=1536),
    QUICK,
    Plan(n_documents=10, n_error_documents=5, max_tokens=2560),
    THOROUGH,
)
_TRIAL_TOKENS = 256
_TRIAL_STEPS = 8
_SLACK = 1.2  # attention over long prompts, and our own arithmetic

# of Llama: where a model runs
_DEVICE_OPTIONS = (
    *("n_threads", "n_gpu_layers", "split_mode", "main_gpu", "tensor_split"),
    *("offload_kqv", "use_mmap", "use_mlock", "kv_overrides", "rpc_servers"),
)

_log = logging.getLogger(__name__)


def resolve(
    model_path: PathLike, *, allow_calibration: bool = True, llama_options: Optional[Mapping[str, Any]] = None
) -> Profile:
    """The profile of a GGUF: shipped, from the user's cache folder, or measured now and stored there.

    llama_options: those of llama_cpp.Llama that the model will be loaded with; it is measured on the same device.
    A measurement takes about three minutes; stopped with Ctrl-C, the next call goes on from there.
    Raises CalibrationError if there is none and allow_calibration is false; UnsupportedModelError.
    """
    file, facts = GGUF.open(model_path), ModelFacts.from_gguf(model_path)
    model_hash = file.hash()
    found = known.shipped(facts, model_hash) or known.cached(model_hash)
    if found is not None:
        found.check(facts)
        return found
    if not allow_calibration:
        raise CalibrationError(
            f"there is no profile for {str(model_path)!r} and allow_calibration is False: run "
            f'"compresskv calibrate {Path(model_path).name} -o profile.json", or use Profile.uniform(model_path)'
        )
    options = {name: value for name, value in (llama_options or {}).items() if name in _DEVICE_OPTIONS}
    return _calibrate(model_path, model_hash, options)


def choose_plan(engine: Engine, corpus: Corpus, seconds: float = TARGET_SECONDS) -> Plan:
    """The largest plan that this machine runs in about `seconds`, by a measured speed; never less than the smallest."""
    read_seconds, step_seconds = _speed(engine, corpus)
    best = _SIZES[0]
    for plan in _SIZES[1:]:
        if estimate(plan, read_seconds, step_seconds) <= seconds:
            best = plan
    return best


def estimate(plan: Plan, read_seconds: float, step_seconds: float) -> float:
    """Seconds that a plan takes, given those of one prompt token and of one generated token."""
    n_questions = plan.n_documents * plan.n_questions
    n_tokens = sum(plan.lengths()) + n_questions * QUESTION_TOKENS
    return _SLACK * (n_tokens * read_seconds + n_questions * plan.answer_tokens * step_seconds)


def _speed(engine: Engine, corpus: Corpus) -> tuple[float, float]:
    """Seconds of one prompt token and of one generated token. The first run reads the weights from disk."""
    text = ""
    for sentence in corpus.hay(0, random.Random(0)):
        text += f" {sentence}"
        if len(text) > 8 * _TRIAL_TOKENS:
            break
    tokens = engine.tokens(text)[:_TRIAL_TOKENS]
    seconds = []
    for _ in range(2):
        engine.restart()
        start = time.perf_counter()
        engine.read(tokens)
        read = time.perf_counter()
        steps = len(engine.answer(_TRIAL_STEPS).generated)
        seconds.append(((read - start) / len(tokens), (time.perf_counter() - read) / steps))
    return seconds[-1]


def _calibrate(model_path: PathLike, model_hash: str, options: Mapping[str, Any]) -> Profile:
    target = known.cache_path(model_hash)
    state_path = _state_path(target)
    corpus = Corpus.load(model_name=ModelFacts.from_gguf(model_path).name)
    plan = _begun(state_path, model_hash, corpus) or _sized(model_path, corpus, options)
    with (
        _open(model_path, plan, options) as engine,
        bar("calibrating, once for this model") as report,
    ):
        profile = Runner(engine, corpus, plan, state_path=state_path, report=report).run()
    if profile.calibration is not None and not profile.calibration.heads_calibrated:
        warnings.warn(f"{Path(model_path).name}: {profile.calibration.reason}", stacklevel=4)
    try:
        profile.save(target)
    except ProfileError as error:
        warnings.warn(f"{error}; the next load calibrates again", stacklevel=4)
    return profile


def _begun(state_path: Optional[Path], model_hash: str, corpus: Corpus) -> Optional[Plan]:
    """The plan of a calibration that was stopped."""
    state = None if state_path is None else State.load(state_path)
    if state is None:
        return None
    key: dict[str, Any] = state.key
    if key.get("model") != model_hash or key.get("corpus") != corpus.fingerprint():
        return None
    return Plan(**key["plan"])


def _sized(model_path: PathLike, corpus: Corpus, options: Mapping[str, Any]) -> Plan:
    trial = dataclasses.replace(QUICK, min_tokens=_TRIAL_TOKENS, max_tokens=2 * _TRIAL_TOKENS)
    with _open(model_path, fit_to_context(trial, model_path), options) as engine:
        plan = fit_to_context(choose_plan(engine, corpus), model_path)
    _log.info("calibrating %s with %s", Path(model_path).name, plan)
    return plan


def _open(model_path: PathLike, plan: Plan, options: Mapping[str, Any]) -> Engine:
    device = {name: value for name, value in options.items() if name != "n_threads"}
    return open_engine(model_path, plan, n_threads=options.get("n_threads"), llama_options=device)


def _state_path(target: Path) -> Optional[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(f"cannot write to {str(target.parent)!r} ({error.strerror}): nothing is stored", stacklevel=5)
        return None
    return target.with_suffix(".state.npz")
