"""Where the engine's tests run: the CPU, and every GPU that ggml finds with this build (make test-vulkan, test-cuda).

A module with `pytestmark = pytest.mark.every_device` runs on each of them, see conftest.py. What is equal to the bit on
the CPU (one thread) is equal within `Device.error` elsewhere: kernels are chosen by the number of rows.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

ERROR = 2e-2  # |a - b| / |b| that logits of two devices, or of two ways on one device, may have
TIE = 5e-3  # part of a score: what is further apart is no tie. Half precision and TF32 have 10 bits behind the point


class Device(NamedTuple):
    """One of ggml's devices. `options` put a model there; `error`: |a - b| / |b| that equal logits may have."""

    name: str
    options: Dict[str, Any]
    error: float


CPU = Device("cpu", {}, 0.0)

current = CPU  # where models are loaded now


@functools.lru_cache(maxsize=1)  # a list of ggml's devices asks RPC servers that have gone
def available() -> List[Device]:
    """The CPU first. On a machine with GPUs it is kept from handing them its matrix products."""
    from compresskv_edge.engine.devices import found

    names = [device.name for device in found() if "GPU" in device.kind and not device.name.startswith("RPC")]
    alone = {"n_gpu_layers": 0, "offload_kqv": False, "op_offload": False}
    gpus = [Device(name, {"n_gpu_layers": -1, "split_mode": 0, "main_gpu": i}, ERROR) for i, name in enumerate(names)]
    return [CPU._replace(options=alone if gpus else {}), *gpus]


@contextlib.contextmanager
def loading_on(device: Device) -> Iterator[None]:
    """Models that do not say where they want to be are loaded there."""
    global current
    before, current = current, device
    with _defaults(device.options) if device.options else contextlib.nullcontext():
        yield
    current = before


@contextlib.contextmanager
def _defaults(options: Dict[str, Any]) -> Iterator[None]:
    import llama_cpp  # not at the top: the package must choose the library first

    init = llama_cpp.Llama.__init__

    @functools.wraps(init)
    def init_there(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{**options, **kwargs})

    llama_cpp.Llama.__init__ = init_there
    yield
    llama_cpp.Llama.__init__ = init


def relative_errors(ours: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """|a - b| / |b| of each row of logits."""
    difference = np.linalg.norm(ours.astype(np.float64) - reference, axis=-1)
    return np.asarray(difference / np.linalg.norm(reference, axis=-1))


def assert_same(
    ours: npt.ArrayLike, reference: npt.ArrayLike, atol: float = 0.0, error: Optional[float] = None
) -> None:
    """Equal logits, (..., n_vocab). atol: what they may differ by on the CPU; error: elsewhere, None: the device's."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    if not current.error:
        np.testing.assert_allclose(ours, reference, rtol=0, atol=atol)
        return
    assert ours.shape == reference.shape
    errors = relative_errors(ours, reference)
    assert np.max(errors) <= (error or current.error), errors


def assert_kept(
    kept: npt.NDArray[Any], want: npt.NDArray[Any], scores: npt.NDArray[Any], tie: Optional[float] = None
) -> None:
    """Equal selections, but for ties: None: none on the CPU, TIE elsewhere.

    scores: (n,) of token 0, 1, ..., without the window.
    """
    tie = (TIE if current.error else 0.0) if tie is None else tie
    if not tie:
        np.testing.assert_array_equal(kept, want)
        return
    assert len(kept) == len(want)
    gained, lost = scores[np.setdiff1d(kept, want)], scores[np.setdiff1d(want, kept)]
    if len(gained):
        assert np.max(lost) - np.min(gained) <= tie * np.max(lost), f"{gained} instead of {lost}"
