"""The CUDA build in build/cuda, with or without a GPU in the machine: `make build-cuda`, `test-cuda`, `bench-cuda`.

    python tools/cuda.py build [--arch 90] [--jobs N]    compile, link and load
    python tools/cuda.py run COMMAND...                  run a command with that build; refused without a GPU

cuBLAS is taken from the toolkit, from the `nvidia-cublas` wheel of this Python, or from that wheel unpacked into
build/cuda-wheels. Without the driver's library CUDA's virtual memory is left out (GGML_CUDA_NO_VMM). Standard library
only.
"""

import argparse
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda"
LIBRARIES = BUILD / "bin"
WHEELS = ROOT / "build" / "cuda-wheels"
STOCK = BUILD / "stock"
DEFAULT_ARCH = "90"  # of H100 and H200; 87 is a Jetson Orin, 86 and 89 are GeForce 30 and 40

LOAD = """
import ctypes, sys
folder = sys.argv[1]
llama = ctypes.CDLL(folder + "/libllama.so", mode=ctypes.RTLD_GLOBAL)
llama.llama_ckv_version.restype = ctypes.c_char_p
ggml = ctypes.CDLL(folder + "/libggml.so")
ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
ggml.ggml_backend_reg_dev_count.restype = ctypes.c_size_t
ggml.ggml_backend_reg_dev_count.argtypes = [ctypes.c_void_p]
backend = ggml.ggml_backend_reg_by_name(b"CUDA")
assert backend, "libggml knows no CUDA backend"
print(ggml.ggml_backend_reg_dev_count(backend), llama.llama_ckv_version().decode())
"""


class CudaError(Exception):
    """Something is missing; the message says what and where it comes from."""


def output_of(*command, **options):
    return subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    ).stdout


def run(*command, **options):
    print("+", *(str(part).replace(f"{ROOT}{os.sep}", "") for part in command), flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


#
# what there is: compiler, toolkit, cuBLAS, driver
#


def find_nvcc():
    homes = [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    named = [os.environ.get("CUDACXX"), shutil.which("nvcc")]
    for path in [*filter(None, named), *(home / "bin" / "nvcc" for home in [*homes, Path("/usr/local/cuda")])]:
        if shutil.which(path):
            return Path(path)
    raise CudaError(
        "no nvcc, the CUDA compiler, in PATH, CUDA_PATH or /usr/local/cuda: install NVIDIA's CUDA toolkit 12 or newer "
        "(a Jetson's JetPack brings it; a GPU is not needed), or name the compiler: make build-cuda CUDACXX=/path/nvcc"
    )


def toolkit(nvcc):
    """(root folder, major version) as nvcc itself tells: /usr/bin/nvcc may be a link or a script."""
    top = re.search(r"^#\$ TOP=(.+)$", output_of(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
    release = re.search(r"release (\d+)\.", output_of(nvcc, "--version"))
    if not top or not release:
        raise CudaError(f"{nvcc} does not tell its folder and version: is it NVIDIA's compiler?")
    return Path(top.group(1)).resolve(), int(release.group(1))


def folders_of(root, kind):
    """Where a toolkit keeps `kind` ("include" or "lib"): itself, its targets, the system (Debian's packages)."""
    names = ("include",) if kind == "include" else ("lib64", "lib")
    system = [Path("/usr/include")] if kind == "include" else list(Path("/usr/lib").glob("*-linux-gnu"))
    found = [root / name for name in names] + [path for name in names for path in root.glob(f"targets/*/{name}")]
    return [path for path in found + system if path.is_dir()]


def cublas_of_wheel(site):
    """(include folder, library folder) of an unpacked nvidia-cublas wheel below `site`, or None."""
    for header in sorted(Path(site).glob("nvidia/*/include/cublas_v2.h")):
        if list((header.parent.parent / "lib").glob("libcublas.so.*")):
            return header.parent, header.parent.parent / "lib"
    return None


def find_cublas(root, major):
    """None if the toolkit has cuBLAS, else the folders of the wheel, which is downloaded if need be (600 MB)."""
    if any((folder / "cublas_v2.h").exists() for folder in folders_of(root, "include")):
        return None
    for site in [*sys.path, WHEELS]:
        if cublas_of_wheel(site):
            return cublas_of_wheel(site)
    wheel = f"nvidia-cublas=={major}.*" if major >= 13 else f"nvidia-cublas-cu{major}"
    print(f"the toolkit in {root} has no cuBLAS: {wheel} from the package index, into build/{WHEELS.name}", flush=True)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    try:
        run(*pip, "--target", WHEELS, wheel)
    except subprocess.CalledProcessError as error:
        raise CudaError(f"no cuBLAS: install NVIDIA's libcublas-dev, or make {wheel} reachable for pip") from error
    return cublas_of_wheel(WHEELS)


def has_driver_library(root):
    """To link with and to run with: a toolkit brings the first alone."""
    found = [path for folder in folders_of(root, "lib") for path in (folder, folder / "stubs")]
    return any((path / "libcuda.so").exists() for path in found) and ctypes.util.find_library("cuda") is not None


#
# build
#


def settings(nvcc, arch):
    root, major = toolkit(nvcc)
    yield from ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_CUDA=ON", "-DCKV_STOCK=ON", f"-DCKV_STOCK_DIR={STOCK}")
    # make cuda-bundle carries it to other machines: nothing of this CPU alone, no library that may be missing there;
    # xz compresses better than CUDA does
    yield from ("-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF", "-DGGML_CUDA_COMPRESSION_MODE=none")
    own = root / "bin" / "nvcc"
    yield f"-DCMAKE_CUDA_COMPILER={own if own.exists() else nvcc}"
    yield f"-DCMAKE_CUDA_ARCHITECTURES={f'{arch}-real' if arch.isdigit() else arch}"  # not for later GPUs as well
    yield f"-DGGML_CUDA_NO_VMM={'OFF' if has_driver_library(root) else 'ON'}"
    cublas = find_cublas(root, major)
    if cublas:
        include, lib = cublas
        yield f"-DCMAKE_CUDA_FLAGS=-isystem {include}"
        yield f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,{lib}"  # libggml-cuda needs it, whoever links with that
        for name in ("cublas", "cublasLt"):
            yield f"-DCUDA_{name}_LIBRARY={next(lib.glob(f'lib{name}.so.*'))}"


def build(arch, jobs):
    nvcc = find_nvcc()
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", *generator, "-S", ROOT, "-B", BUILD, *settings(nvcc, arch), stdout=subprocess.DEVNULL)
    run("cmake", "--build", BUILD, "--target", "all", "stock", "ckv-selftest", "--parallel", jobs)
    check(arch)


def library_path():
    """Folders of the libraries that the build needs: its own, the toolkit's, cuBLAS."""
    root, major = toolkit(find_nvcc())
    wheel = find_cublas(root, major)
    return [LIBRARIES, *folders_of(root, "lib")[:1], *([wheel[1]] if wheel else [])]


def environment():
    before = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    path = os.pathsep.join([*map(str, library_path()), *filter(None, before)])
    return {
        **os.environ,
        "LD_LIBRARY_PATH": path,
        "COMPRESSKV_LIB_PATH": str(LIBRARIES),
        "COMPRESSKV_STOCK_LIB": str(STOCK / "lib"),
        "CKV_SELFTEST": str(LIBRARIES / "ckv-selftest"),
    }


def check(arch):
    """Every symbol has its library, ours is among them, and the backend says how many GPUs it sees."""
    env = environment()
    libraries = sorted(LIBRARIES.glob("*.so"))
    for library in libraries:
        missing = re.findall(r"undefined symbol.*|.*not found", output_of("ldd", "-r", library, env=env))
        if missing:
            raise CudaError(f"{library.name} does not link: {missing[0].strip()} ({len(missing)} in all)")
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in libraries)
    print(f"linked, no symbol is missing: {sizes}")
    n_devices, version = gpus(env)
    print(f"loaded: {version}; CUDA backend for architecture {arch}, {n_devices} GPUs here")


def gpus(env):
    """(number of GPUs that the backend sees, version of the library), asked of the loaded build."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(LIBRARIES)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CudaError(f"the build does not load: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    count, version = done.stdout.strip().splitlines()[-1].split(" ", 1)
    return int(count), version


def run_with_build(command):
    if not (LIBRARIES / "libllama.so").exists():
        raise CudaError("there is no CUDA build yet: make build-cuda")
    env = environment()
    if gpus(env)[0] == 0:
        raise CudaError(
            "the CUDA build sees no GPU here, and everything would run on the CPU: try nvidia-smi; "
            "in a container, pass the GPU through"
        )
    os.execvpe(command[0], command, env)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True)
    build_parser = commands.add_parser("build")
    build_parser.add_argument("--arch", default=DEFAULT_ARCH)
    build_parser.add_argument("--jobs", type=int, default=os.cpu_count())
    commands.add_parser("run").add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.name == "build":
        build(given.arch, given.jobs)
    else:
        run_with_build(given.command)


if __name__ == "__main__":
    try:
        main()
    except CudaError as error:
        sys.exit(f"tools/cuda.py: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"tools/cuda.py: {Path(error.cmd[0]).name} failed, its message is above")
