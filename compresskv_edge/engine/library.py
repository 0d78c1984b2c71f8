"""The native library: find it, load it, check that it is ours. native.py calls it.

`llama_cpp` loads the library that LLAMA_CPP_LIB_PATH names when it is first imported. Importing compresskv_edge sets
that variable; `load()` then makes sure that the binding did load our build, of the version that it was made for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any, Sequence

import cffi

from ..errors import LibraryError
from ..version import __version__

BINDING_VERSION = "0.3.36"  # the llama-cpp-python whose llama.cpp we build; vendor/llama_cpp.pin has its checksum

_PACKAGE = Path(__file__).parents[1]
_PACKAGE_NAME = __name__.partition(".")[0]
_NAMES = {"win32": "llama.dll", "darwin": "libllama.dylib"}
# ggml's API. Windows looks for a name in the one library that it is asked for, others also in what that needs
_GGML_NAMES = {"win32": ("ggml-base.dll", "ggml.dll"), "darwin": ("libggml.dylib",)}
_LOADER = "size_t ggml_backend_reg_count(void); void ggml_backend_load_all_from_path(const char * path);"


def folder() -> Path:
    """The folder with our libllama. COMPRESSKV_LIB_PATH overrides it, to try another build.

    Raises LibraryError if there is none.
    """
    override = os.environ.get("COMPRESSKV_LIB_PATH")
    # an editable install keeps Python in the checkout and the libraries in another entry of the package's path
    places = [Path(override)] if override else [Path(root) / "lib" for root in sys.modules[_PACKAGE_NAME].__path__]
    for place in places:
        if (place / _NAMES.get(sys.platform, "libllama.so")).exists():
            return place
    raise LibraryError(
        f"no libllama in {', '.join(map(str, places))}: install the package (pip install .), which compiles it"
    )


def offer() -> None:
    """Let the first `import llama_cpp` of this process load our build; does nothing if it was imported already."""
    if "llama_cpp" in sys.modules:
        return
    with contextlib.suppress(LibraryError, OSError):  # load() says it when the library is needed
        os.environ["LLAMA_CPP_LIB_PATH"] = str(folder())
        load_backends()


def load_backends() -> None:
    """Where ggml's backends are files of their own, as in wheels: load the best one of each kind for this machine.

    llama.cpp itself looks for them beside the program, which is Python, and llama_cpp does not load them.
    """
    place = folder()
    if not has_variants(place):
        return
    _, lib = ggml(_LOADER)
    if lib.ggml_backend_reg_count() == 0:
        lib.ggml_backend_load_all_from_path(str(place).encode())


def has_variants(place: Path) -> bool:
    """Whether the CPU's code is there several times, for CPUs of different abilities (GGML_CPU_ALL_VARIANTS)."""
    return any(place.glob("*ggml-cpu-*"))


def ggml(declarations: str) -> tuple[Any, Any]:
    """(ffi, lib) for C declarations of ggml's own API, which the binding lacks, in the library that llama.cpp uses."""
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    place = folder()
    names = _GGML_NAMES.get(sys.platform, ("libggml.so",))
    return ffi, Together([ffi.dlopen(str(place / name)) for name in names])


class Together:
    """Several libraries as one: each function from the first that has it."""

    def __init__(self, libraries: Sequence[Any]) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        for library in self._libraries:
            with contextlib.suppress(AttributeError):
                return getattr(library, name)
        raise AttributeError(f"no library has {name}")


@functools.lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """(ffi, lib): the C API of csrc/ckv.h, from the very library that llama_cpp uses.

    Raises LibraryError if llama_cpp loaded another one, or ours is of another version.
    """
    ours = folder()
    import llama_cpp

    loaded = Path(llama_cpp.llama_cpp._lib._name).resolve()
    if loaded.parent != ours.resolve():
        raise LibraryError(
            f"llama_cpp has loaded {loaded}, not the library of compresskv_edge in {ours}: "
            "import compresskv_edge before llama_cpp"
        )
    if llama_cpp.__version__ != BINDING_VERSION:
        raise LibraryError(
            f"llama-cpp-python is {llama_cpp.__version__}, compresskv_edge is built for {BINDING_VERSION}: "
            f"pip install llama-cpp-python=={BINDING_VERSION}"
        )
    ffi = cffi.FFI()
    ffi.cdef(_declarations())
    lib = ffi.dlopen(str(loaded))
    _check_version(ffi, lib, loaded)
    load_backends()  # if llama_cpp was imported before us
    return ffi, lib


def _header() -> bytes:
    return (_PACKAGE / "csrc" / "ckv.h").read_bytes()


def _declarations() -> str:
    """csrc/ckv.h as cffi reads it: without preprocessor lines and linkage."""
    header = _header().decode()
    header = re.sub(r'^#.*$|^extern "C" \{$|^\}$|LLAMA_API', "", header, flags=re.MULTILINE)
    types = "typedef int32_t llama_pos; typedef int32_t llama_seq_id; struct llama_model; struct llama_context;"
    return types + header


def _check_version(ffi: Any, lib: Any, path: Path) -> None:
    try:
        found = ffi.string(lib.llama_ckv_version()).decode()
    except AttributeError:
        raise LibraryError(f"{path} is a stock llama.cpp: reinstall compresskv_edge (pip install .)") from None
    expected = f"{__version__} ", f" header {hashlib.sha256(_header()).hexdigest()}"
    if not (found.startswith(expected[0]) and found.endswith(expected[1])):
        raise LibraryError(
            f"{path} is {found!r}, this is compresskv_edge {__version__} with {expected[1].strip()}: "
            "reinstall the package (pip install .)"
        )


def version() -> str:
    """Version of the library: "<compresskv_edge> llama.cpp <upstream version> <commit> header <SHA-256 of ckv.h>"."""
    ffi, lib = load()
    return str(ffi.string(lib.llama_ckv_version()).decode())
