"""Fill vendor/llama.cpp with what the build needs of the pinned source distribution.

    python vendor/fetch.py            fill vendor/llama.cpp; does nothing if it is complete and of the pinned version
    python vendor/fetch.py --sdist    only download and check the source distribution; prints its path

pip downloads it, so index, proxies and certificates are the user's own (pip.conf, PIP_INDEX_URL, ...).
COMPRESSKV_SDIST=/path/to/llama_cpp_python-X.tar.gz takes a file instead. Standard library only.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".fetched.json"  # in the filled tree: what it came from, and its files

# Paths in llama.cpp that its CMake reads for the `llama` target. Of its own vendor folder CMake wants the lists and
# the sources of one library that is never built here. docs/ops: which backend has which operation, for a test.
WANTED = ("CMakeLists.txt", "LICENSE", "cmake/", "ggml/", "include/", "src/", "vendor/CMakeLists.txt", "vendor/hash/")
WANTED += tuple(f"vendor/{name}/CMakeLists.txt" for name in ("miniaudio", "nlohmann", "sheredom", "stb"))
WANTED += ("docs/ops/",)


class VendorError(Exception):
    """The upstream sources cannot be had as pinned; the message says what to do."""


def read_pin(path):
    """`key = value` lines -> dict."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pin = dict((part.strip() for part in line.split("=", 1)) for line in lines if "=" in line)
    missing = {"package", "version", "sha256", "upstream_version", "upstream_commit"} - pin.keys()
    if missing:
        raise VendorError(f"{path}: lacks {', '.join(sorted(missing))}")
    return pin


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sdist(path, pin):
    found = sha256_of(path)
    if found != pin["sha256"]:
        raise VendorError(
            f"{path}: SHA-256 is {found}, the pin says {pin['sha256']}: delete the file and build again; "
            "if it comes back the same, the index serves another archive: do not use it"
        )
    return path


def download(pin, folder):
    """Have pip put the source distribution into `folder`; pip checks the hash before it runs anything of it."""
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{pin['package']}=={pin['version']} --hash=sha256:{pin['sha256']}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", pin["package"]]
    if importlib.util.find_spec("scikit_build_core"):
        command.append("--no-build-isolation")  # pip asks for metadata; an environment of its own takes 20 s more
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    # pip's output goes to stderr: stdout belongs to --sdist
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise VendorError(
            f"pip could not download {pin['package']}=={pin['version']} (its message is above): check the package "
            "index that pip is configured for, or set COMPRESSKV_SDIST to a downloaded source distribution"
        )


def find_sdist(pin, folder):
    """The checked source distribution: COMPRESSKV_SDIST, else the one kept in `folder`, else from the index."""
    given = os.environ.get("COMPRESSKV_SDIST")
    if given:
        if not Path(given).is_file():
            raise VendorError(f"COMPRESSKV_SDIST={given}: no such file: correct the variable or unset it")
        return check_sdist(Path(given), pin)
    path = folder / f"{pin['package'].replace('-', '_')}-{pin['version']}.tar.gz"
    if not path.is_file():
        download(pin, folder)
    if not path.is_file():
        raise VendorError(f"pip succeeded but did not write {path}: set COMPRESSKV_SDIST to the file")
    return check_sdist(path, pin)


def wanted_path(member_name, prefix):
    """Path inside llama.cpp of an archive member that the build needs, else None."""
    if not member_name.startswith(prefix):
        return None
    path = member_name[len(prefix) :]
    is_wanted = any(path.startswith(want) if want.endswith("/") else path == want for want in WANTED)
    return path if is_wanted else None


def unpack(archive, pin, target):
    """Write the wanted files of `archive` into the new folder `target`; returns their paths, sorted."""
    prefix = f"{pin['package'].replace('-', '_')}-{pin['version']}/vendor/llama.cpp/"
    files = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = wanted_path(member.name, prefix)
            if path is None or member.isdir():
                continue
            if not member.isfile() or ".." in PurePosixPath(path).parts:
                raise VendorError(f"{archive}: '{member.name}' leaves its folder or is a link: wrong archive")
            out = target / path
            out.parent.mkdir(parents=True, exist_ok=True)
            # not the archive's times: they are the same in every release, and ninja would miss a changed file
            with tar.extractfile(member) as source, open(out, "wb") as sink:
                shutil.copyfileobj(source, sink)
            files.append(path)
    if not {"CMakeLists.txt", "LICENSE", "src/CMakeLists.txt", "ggml/CMakeLists.txt"} <= set(files):
        raise VendorError(f"{archive}: has no complete {prefix}: not the expected archive")
    return sorted(files)


def read_stamp(tree):
    """The tree's stamp, or None if there is no tree. A tree without a stamp is not ours to overwrite."""
    if not tree.exists():
        return None
    try:
        return json.loads((tree / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VendorError(f"{tree}: not filled by this build or only in part ({error}): delete the folder") from error


def is_complete(tree, pin):
    """Whether `tree` was filled from the pinned archive and still has all its files."""
    stamp = read_stamp(tree)
    if stamp is None or stamp["sha256"] != pin["sha256"] or stamp.get("wanted") != list(WANTED):
        return False
    missing = [path for path in stamp["files"] if not (tree / path).is_file()]
    if missing:
        raise VendorError(f"{tree}: '{missing[0]}' is gone ({len(missing)} files in all): delete the folder")
    return True


def fetch(tree, pin, cache):
    """Fill `tree` if need be; returns whether anything was done. Appears whole or not at all."""
    if is_complete(tree, pin):
        return False
    archive = find_sdist(pin, cache)
    partial = tree.with_name(tree.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        files = unpack(archive, pin, partial)
        stamp = {"sha256": pin["sha256"], "wanted": WANTED, "files": files}
        (partial / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
        shutil.rmtree(tree, ignore_errors=True)  # of another pin, or of less
        partial.rename(tree)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def main(args):
    pin = read_pin(ROOT / "vendor" / "llama_cpp.pin")
    cache = ROOT / "build" / "download"
    if args == ["--sdist"]:
        print(find_sdist(pin, cache))
    elif args:
        raise VendorError(f"unknown argument {args[0]!r}\n{__doc__}")
    elif fetch(ROOT / "vendor" / "llama.cpp", pin, cache):
        print(f"llama.cpp {pin['upstream_version']} ({pin['package']} {pin['version']}) unpacked to vendor/llama.cpp")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (VendorError, OSError, EOFError, tarfile.TarError) as error:
        sys.exit(f"vendor/fetch.py: {error}")
