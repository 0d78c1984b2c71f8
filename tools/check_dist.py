"""Build the source distribution, a wheel from it, and try that wheel: `make check-dist`. Takes minutes.

1. make sdist;
2. build a wheel from the unpacked source distribution with no package index at all;
3. look into the wheel: one file a library, no links, no upstream headers or CMake files, licences, sensible size;
4. install it in a fresh environment outside the repository and answer a prompt with the demo model, compressed.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_WHEEL_MIB = 24
NEEDED = (
    "py.typed",
    "lib/LICENSE-llama.cpp.txt",
    "csrc/ckv.h",
    "profiles/",
    "models/",
    "lib/libllama.",
    "lib/libggml-cpu.",
)
UNWANTED = (".cpp", ".cmake", ".pc", ".in", ".hpp", ".cu", ".pyc")
TRIAL = """
import sys
from pathlib import Path
import compresskv_edge
from compresskv_edge import Llama, Profile

package = Path(compresskv_edge.__file__).parent
assert Path(sys.prefix) in package.parents, f"not the installed package: {package}"
model = next((package / "models").glob("*.gguf"))
llm = Llama(str(model), kv_profile=Profile.uniform(model), kv_budget=64, n_ctx=1024, verbose=False)
prompt = "The code that opens the amber lantern is 4711. " + "The harbour was quiet that day. " * 60
text = llm(prompt, max_tokens=8)["choices"][0]["text"]
stats = llm.kv_stats()
assert stats.n_evictions >= 1, stats
print(f"answered {text!r}; KV bytes {stats.kv_bytes} of {stats.kv_bytes_stock}")
"""


def run(*command, cwd=ROOT, **env):
    print("+", *(Path(part).name if os.sep in str(part) else part for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, env={**os.environ, **env}, check=True)


def newest(pattern):
    return max((ROOT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)


def build_wheel_offline(sdist, folder):
    """The wheel, from the unpacked source distribution, with every way to an index closed."""
    with tarfile.open(sdist) as tar:
        tar.extractall(folder)  # our own archive
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    # in the `pip wheel` process and in all that it starts
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "COMPRESSKV_SDIST": ""}
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-cache-dir")
    run(*pip, "--wheel-dir", ROOT / "dist", ".", cwd=source, **offline)
    return newest("*.whl")


def check_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    problems = [f"lacks {need}" for need in NEEDED if not any(f"compresskv_edge/{need}" in name for name in names)]
    problems += [f"contains {name}" for name in names if name.endswith(UNWANTED)]
    problems += [f"contains {name}" for name in names if name.endswith(".h") and not name.endswith("/ckv.h")]
    problems += [f"{entry.filename} is a link" for entry in entries if entry.external_attr >> 28 == 0xA]
    problems += [f"{name} has a version in its name" for name in names if ".so." in name]
    size_mib = wheel.stat().st_size / 2**20
    if size_mib > MAX_WHEEL_MIB:
        problems.append(f"is {size_mib:.1f} MiB, more than {MAX_WHEEL_MIB}")
    if problems:
        sys.exit(f"{wheel.name}: " + "; ".join(problems))
    print(f"{wheel.name}: {size_mib:.1f} MiB, {len(names)} files")


def try_wheel(wheel, folder):
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    sdist = subprocess.check_output([sys.executable, str(ROOT / "vendor" / "fetch.py"), "--sdist"], text=True).strip()
    # as in the Makefile: the binding alone, not cached
    run(*pip, "--no-cache-dir", sdist, cwd=folder, CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF")
    run(*pip, wheel, cwd=folder)
    run(python.with_name("compresskv"), "--help", cwd=folder)
    run(python, "-c", TRIAL, cwd=folder)


def main():
    run("make", "sdist")
    sdist = newest("*.tar.gz")
    print(f"{sdist.name}: {sdist.stat().st_size / 2**20:.1f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel_offline(sdist, Path(folder))
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, Path(folder))
    print("sdist and wheel are good")


if __name__ == "__main__":
    main()
