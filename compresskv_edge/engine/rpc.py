"""Several machines: llama.cpp's RPC backend, as client (`rpc_servers`) and as server (`compresskv rpc-server`).

Layers, with their KV cache, live on the servers; only activations, scores and indices cross the network. The protocol
has neither passwords nor encryption (as llama.cpp says): for trusted networks only.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import socket
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ..errors import EngineError, LibraryError
from . import library

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_CPU, _GPUS = 0, (1, 2)  # enum ggml_backend_dev_type; the second GPU is an integrated one

# ggml/include/ggml-backend.h and ggml-rpc.h; `ckv_n_lost` is ours (patches/0004-rpc.patch)
_DECLARATIONS = """
    void * ggml_backend_reg_by_name(const char * name);
    void * ggml_backend_reg_get_proc_address(void * reg, const char * name);
    void   ggml_backend_register(void * reg);
    void * ggml_backend_dev_by_type(int type);
    size_t ggml_backend_dev_count(void);
    void * ggml_backend_dev_get(size_t index);
    int    ggml_backend_dev_type(void * device);
    void * ggml_backend_dev_backend_reg(void * device);
    const char * ggml_backend_reg_name(void * reg);
    size_t ggml_backend_reg_dev_count(void * reg);
    void * ggml_backend_reg_dev_get(void * reg, size_t index);
"""
_ADD_SERVER = "void * (*)(const char *)"
_START_SERVER = "void (*)(const char *, const char *, size_t, size_t, void **)"
_N_LOST = "int (*)(void)"

_registered: Dict[str, Any] = {}  # endpoint -> ggml's registration, for as long as the process lives


def add_servers(servers: Optional[str]) -> List[str]:
    """Make the devices of RPC servers known to llama.cpp; returns their endpoints. None: no servers.

    Args:
        servers: "host:port,host:port", as llama.cpp's --rpc.

    Raises:
        EngineError: no server answers at an address, or not a server of this protocol version.
        LibraryError: this build has no RPC backend.
    """
    endpoints = [] if servers is None else parse(servers)
    for endpoint in endpoints:
        _check_reachable(endpoint)  # llama.cpp would end the process
        if endpoint in _registered:
            continue
        reg = _function("ggml_backend_rpc_add_server", _ADD_SERVER)(endpoint.encode())
        if not reg:
            raise EngineError(f"{endpoint} answers but offers no device: is it an RPC server of this llama.cpp?")
        _ggml()[1].ggml_backend_register(reg)
        _registered[endpoint] = reg
    return endpoints


def devices(endpoints: Sequence[str]) -> Optional[Any]:
    """For llama_model_params.devices: these servers' devices, then this machine's GPUs; NULL ends the array.

    None where llama.cpp's own choice is the same: no server is registered in this process.
    """
    if not _registered:
        return None
    ffi, lib = _ggml()
    chosen = [
        lib.ggml_backend_reg_dev_get(_registered[endpoint], i)
        for endpoint in endpoints
        for i in range(lib.ggml_backend_reg_dev_count(_registered[endpoint]))
    ]
    everything = (lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count()))
    chosen += [device for device in everything if _is_local_gpu(device)]
    addresses = [int(ffi.cast("uintptr_t", device)) for device in chosen]
    return (ctypes.c_void_p * (len(addresses) + 1))(*addresses, None)


def _is_local_gpu(device: Any) -> bool:
    ffi, lib = _ggml()
    reg = ffi.string(lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(device)))
    return lib.ggml_backend_dev_type(device) in _GPUS and not reg.startswith(b"RPC")


def is_gone(endpoint: str) -> bool:
    """Whether this process knows the server and it does not answer any more."""
    if endpoint not in _registered:
        return False
    try:
        _check_reachable(endpoint)
    except EngineError:
        return True
    return False


def n_lost() -> int:
    """Connections to servers that broke since the process started."""
    return int(_function("ckv_n_lost", _N_LOST)()) if _registered else 0


@contextlib.contextmanager
def watch(ctx: Any, endpoints: Sequence[str], n_lost_before: int) -> Iterator[None]:
    """Around a decode of `ctx`: EngineError if a connection has broken since there were `n_lost_before` of them.

    llama.cpp itself would end the process, see patches/0004-rpc.patch. Costs nothing without RPC servers.
    """
    if not endpoints:
        yield
        return
    try:
        yield
    finally:
        _binding().llama_synchronize(ctx)  # results are on their way until then
        if n_lost() != n_lost_before:
            raise EngineError(
                f"the connection to an RPC server ({', '.join(endpoints)}) broke and the cache is lost: start the "
                "server again, then load the model again"
            )


def serve(host: str = "127.0.0.1", port: int = 50052, *, n_threads: Optional[int] = None, cache_dir: str = "") -> None:
    """Offer this machine's CPU, or its GPUs if the build has them, to RPC clients. Does not return.

    Args:
        host: address to listen on. Anyone who reaches it can read and write the memory of this process.
        port: TCP port.
        n_threads: CPU threads; None: one a core.
        cache_dir: folder for tensors of models, so that they cross the network once; "": none.

    Raises EngineError if the port is taken, LibraryError if this build has no RPC backend.
    """
    if host not in ("127.0.0.1", "localhost", "::1"):
        log.warning("listening on %s: the protocol has no password, use it in trusted networks only", host)
    _check_free(host, port)
    ffi, lib = _ggml()
    start = _function("ggml_backend_rpc_start_server", _START_SERVER)
    devices = [lib.ggml_backend_dev_by_type(kind) for kind in _GPUS]
    devices = [device for device in devices if device] or [lib.ggml_backend_dev_by_type(_CPU)]
    start(
        f"{host}:{port}".encode(),
        os.fspath(cache_dir).encode() if cache_dir else ffi.NULL,
        n_threads or os.cpu_count() or 1,
        len(devices),
        ffi.new("void *[]", devices),
    )
    raise EngineError(f"the RPC server at {host}:{port} has stopped, its reason is above")


def parse(servers: str) -> List[str]:
    """ "a:1, b:2" -> ["a:1", "b:2"]. Raises EngineError for an address without a host or a port."""
    endpoints = [part.strip() for part in servers.split(",") if part.strip()]
    for endpoint in endpoints:
        _split(endpoint)
    if not endpoints:
        raise EngineError(f"rpc_servers is {servers!r}: give host:port, several with commas between them")
    return endpoints


def _split(endpoint: str) -> Tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise EngineError(f"{endpoint!r} is not host:port")
    return host, int(port)


def _check_reachable(endpoint: str) -> None:
    try:
        socket.create_connection(_split(endpoint), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineError(
            f"no RPC server answers at {endpoint} ({error}): start one there with `compresskv rpc-server --host ... "
            f"--port {_split(endpoint)[1]}`"
        ) from None


def _check_free(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise EngineError(f"cannot listen on {host}:{port} ({error}): choose another --port") from None


def _binding() -> Any:
    import llama_cpp  # after library.load() has checked it

    return llama_cpp.llama_cpp


@functools.lru_cache(maxsize=1)
def _ggml() -> Tuple[Any, Any]:
    """(ffi, lib) of ggml's device registry, from the library that llama_cpp uses."""
    library.load()
    return library.ggml(_DECLARATIONS)


def _function(name: str, kind: str) -> Any:
    ffi, lib = _ggml()
    reg = lib.ggml_backend_reg_by_name(b"RPC")
    address = lib.ggml_backend_reg_get_proc_address(reg, name.encode()) if reg else ffi.NULL
    if not address:
        raise LibraryError('this build has no RPC backend: build with CMAKE_ARGS="-DGGML_RPC=on"')
    return ffi.cast(kind, address)
