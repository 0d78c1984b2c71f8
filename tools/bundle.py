"""One file that a machine without network unpacks, tests and measures itself with: `make cuda-bundle`.

    python tools/bundle.py cuda [--arch 90] [--pythons 3.10,3.12]    dist/compresskv-cuda-90-x86_64.pyz
    python tools/bundle.py cpu [--pythons 3.11]                      a rehearsal, with the build of `make setup stock`

In it: the stripped libraries of one build, the package with the demo model, the binding without its libraries, their
dependencies for each Python version, and the tests. tools/bundle_run.py is the program. cuBLAS stays outside, with
580 MB: CUDA's toolkit, a Jetson's JetPack and PyTorch bring it. Packs what `make setup stock build-cuda` have built.
"""

import argparse
import importlib.util
import io
import json
import lzma
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cuda

ROOT = Path(__file__).resolve().parent.parent
MAX_MIB = 60
PYTHONS = "3.10,3.12"  # of Ubuntu 22.04, which a Jetson has, and 24.04
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
MACHINE = platform.machine()
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)  # manylinux_2_N: pip takes these tags only, not older ones by itself
LONG_PROMPT = ("--shape", "qwen2.5-1.5b", "--gpu-layers", "-1", "--prompt-tokens", "32768", "--against", "q8_0,q4_0")
DEMO_MODEL = "app/compresskv_edge/model/weights/demo-q8_0.gguf"
SHORT_PROMPT = (DEMO_MODEL, "--prompt-tokens", "256", "--decode-tokens", "16", "--repeats", "1", "--tail", "64")
# the engine first: where time is short, the last ones are not reached
TESTS = "engine two_devices eviction_forward scores compression sequences llama rebase kv_rebase session stock".split()
REHEARSAL = ["scores", "eviction_forward"]
# of wheels; importlib.metadata finds versions and pytest's plugins in the two files that stay
UNUSED = re.compile(
    r"(^|/)(tests|f2py|bin|__pycache__)/|\.dist-info/(?!METADATA|entry_points)|\.(pyi|pxd|pyx|h|a)$|\.data/(?!(pure|plat)lib/)"
)


class BundleError(Exception):
    """Something is missing or too large; the message says what and the remedy."""


@dataclass(frozen=True)
class Build:
    """Libraries to pack, and how their device is tested and measured.

    device: as the tests name it; tests: modules; budgets: one benchmark each; bench: its other options.
    """

    name: str
    folder: Path
    stock: Path
    runtime: "tuple[Path, ...]"
    device: str
    tests: "list[str]"
    budgets: "tuple[int, ...]"
    bench: "tuple[str, ...]"


def cpu_build():
    folder, stock = ROOT / "build/cmake/bin", ROOT / "build/stock/lib"
    return Build("cpu", folder, stock, (), "cpu", REHEARSAL, (128,), SHORT_PROMPT)


def cuda_build(arch):
    runtime = [path for folder in cuda.library_path() for path in folder.glob("libcudart.so.*") if path.is_symlink()]
    if not runtime:
        raise BundleError("the CUDA toolkit has no libcudart.so: install its runtime library (cuda-cudart)")
    stock = cuda.STOCK / "lib"
    return Build(
        f"cuda-{arch}", cuda.LIBRARIES, stock, (runtime[0],), "CUDA0", TESTS, (512, 1024, 2048), LONG_PROMPT
    )  # fmt: skip


#
# what goes in: (name in the archive, content)
#


def stripped(path):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["strip", "--strip-unneeded", "-o", out.name, str(path)], check=True)
        return Path(out.name).read_bytes()


def libraries(build):
    """Ours with the self-test, and the stock libllama: the other libraries of a stock build are the same."""
    program, stock = build.folder / "ckv-selftest", build.stock / "libllama.so"
    for path in (build.folder / "libllama.so", program, stock):
        if not path.exists():
            raise BundleError(f"there is no {path}: make setup stock, and for CUDA make build-cuda")
    for path in (*sorted(build.folder.glob("*.so")), program, *build.runtime):
        yield f"lib/{path.name}", stripped(path)
    yield "stock/libllama.so", stripped(stock)


def tree(folder, to, unwanted=r"\.(so|dylib|dll|cpp|pyc)$"):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not re.search(unwanted, path.name):
            yield f"{to}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def own_files():
    """The package as an installed one is, the binding without its libraries, the tests."""
    yield from tree(ROOT / "compresskv_edge", "app/compresskv_edge")
    yield from tree(ROOT / "profiles", "app/compresskv_edge/profiles")
    yield from tree(Path(importlib.util.find_spec("llama_cpp").origin).parent, "app/llama_cpp")
    yield from tree(ROOT / "tests", "tests", unwanted=r"\.(?!py$)[^.]+$")
    yield "pyproject.toml", (ROOT / "pyproject.toml").read_bytes()


#
# dependencies
#


def requirements():
    """Of the package and of the binding, which comes without its own wheel; and pytest."""
    found = [need for name in ("compresskv-edge", "llama-cpp-python") for need in metadata.requires(name) or ()]
    return sorted({need for need in found if not re.search("extra ==|^llama-cpp-python", need)} | {"pytest"})


def download(python, folder):
    """Wheels for any Python of this kind of machine."""
    platforms = [*(f"manylinux_2_{minor}_{MACHINE}" for minor in GLIBC), f"manylinux2014_{MACHINE}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [part for name in platforms for part in ("--platform", name)]
    if subprocess.run([*command, *requirements()], check=False).returncode != 0:
        raise BundleError(f"pip has no wheels of all dependencies for Python {python} on {MACHINE}, see above")
    return sorted(folder.glob("*.whl"))


def unpacked(wheels, python):
    """What is needed of wheels: each is a zip of what lies in site-packages."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and not UNUSED.search(name):
                    yield f"site-{python}/{re.sub(r'^[^/]+[.]data/[^/]+/', '', name)}", archive.read(name)


def dependencies(pythons):
    for python in pythons:
        folder = ROOT / "build" / "bundle" / f"{python}-{MACHINE}"
        yield from unpacked(download(python, folder), python)


#
# the archive
#


def packed(files):
    """.tar.xz; the same file for several Pythons stands side by side, so that it is compressed once."""
    ordered = sorted(files, key=lambda item: (re.sub(r"^site-[^/]+/", "", item[0]), item[0]))
    out = io.BytesIO()
    with lzma.open(out, "wb", preset=9) as compressed, tarfile.open(fileobj=compressed, mode="w|") as tar:
        for name, content in ordered:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def plan(build, pythons):
    """bundle.json, which the program reads."""
    return {
        "name": build.name,
        "machine": MACHINE,
        "pythons": pythons,
        "commit": cuda.output_of("git", "-C", ROOT, "rev-parse", "HEAD").strip(),
        "device": build.device,
        "cublas": f"libcublas.so.{build.runtime[0].name.rsplit('.', 1)[1]}" if build.runtime else None,
        "tests": [f"tests/test_{name}.py" for name in build.tests],
        "bench": {str(budget): [*build.bench, "--budget", str(budget)] for budget in build.budgets},
    }


def write(path, build, pythons):
    """path: a zip that Python runs. Stored: the archive in it is compressed."""
    files = {"bundle.json": json.dumps(plan(build, pythons), indent=2).encode()}
    files["files.tar.xz"] = packed([*libraries(build), *own_files(), *dependencies(pythons)])
    files["__main__.py"] = (Path(__file__).parent / "bundle_run.py").read_bytes()
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    size_mib = path.stat().st_size / 2**20
    if size_mib > MAX_MIB:
        raise BundleError(
            f"{path.name} is {size_mib:.1f} MiB, more than {MAX_MIB}: name fewer Pythons (BUNDLE_PYTHONS)"
        )
    print(f"{path.relative_to(ROOT)}: {size_mib:.1f} MiB, for Python {', '.join(pythons)} on {MACHINE}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("cuda", "cpu"))
    parser.add_argument("--arch", default=cuda.DEFAULT_ARCH)
    parser.add_argument("--pythons", help=f"{PYTHONS}; for a rehearsal this one")
    given = parser.parse_args()
    build, pythons = (cuda_build(given.arch), PYTHONS) if given.kind == "cuda" else (cpu_build(), THIS_PYTHON)
    path = ROOT / "dist" / f"compresskv-{build.name}-{MACHINE}.pyz"
    write(path, build, (given.pythons or pythons).split(","))


if __name__ == "__main__":
    try:
        main()
    except (BundleError, cuda.CudaError) as error:
        sys.exit(f"tools/bundle.py: {error}")
