"""Build the source distribution, a wheel from it, and try that wheel: `make check-dist`. Takes minutes.

1. make sdist;
2. build a wheel from the unpacked source distribution with no package index at all;
3. look into the wheel: one file a library, no links, no upstream headers or CMake files, licences, sensible size;
4. install it in a fresh environment outside the repository and answer a prompt with the demo model, compressed.

--variants: the same for a wheel like those of a release (pyproject.toml, [tool.cibuildwheel]), whose CPU code is there
once for each generation of CPUs: the best one for this machine is used; without it the next best, and at last the plain
one, answer alike and keep the same tokens. Linux.
"""

import argparse
import json
import os
import re
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
    "lib/libggml-cpu",
)
UNWANTED = (".cpp", ".cmake", ".pc", ".in", ".hpp", ".cu", ".pyc")
TRIAL = """
import sys
from pathlib import Path
import compresskv_edge
from compresskv_edge import Llama
from compresskv_edge.demo import model_path
from compresskv_edge.evaluate import needle

package = Path(compresskv_edge.__file__).parent
assert Path(sys.prefix) in package.parents, f"not the installed package: {package}"
llm = Llama(model_path(), kv_profile="demo", kv_budget=0.12, n_ctx=2048, verbose=False)
prompt = needle.make_prompts(1, needle.token_counter(llm), contexts=[1024])[0]
text = llm(prompt.text, max_tokens=16, stop=["."], temperature=0.0)["choices"][0]["text"]
stats = llm.kv_stats()
print(f"answered {text!r}, expected {prompt.answer!r}; KV bytes {stats.kv_bytes} of {stats.kv_bytes_stock}")
assert stats.n_evictions >= 1, stats
assert needle.is_correct(text, prompt.answer)
"""
# after TRIAL: what was loaded, and what the selection and the answer were
VARIANT = """
import json
import re
maps = Path("/proc/self/maps").read_text()
loaded = sorted(set(re.findall(r"libggml-cpu-[^/\\s]+", maps)))
kept = [llm.kv_kept(layer).tolist() for layer in range(len(stats.n_tokens_kept))]
print(json.dumps({"loaded": loaded, "text": text, "kept": kept}))
"""
# the stock class of the binding works with such a wheel too: nobody else would load the backends
STOCK_TRIAL = """
from compresskv_edge.demo import model_path
import llama_cpp
llm = llama_cpp.Llama(model_path(), n_ctx=128, verbose=False)
assert llm("One, two, three,", max_tokens=2)["usage"]["completion_tokens"] > 0
"""


def run(*command, cwd=ROOT, **env):
    print("+", *(Path(part).name if os.sep in str(part) else part for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, env={**os.environ, **env}, check=True)


def newest(pattern):
    return max((ROOT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)


def release_settings():
    """CMAKE_ARGS of the release wheels. Read as text: Python 3.9 and 3.10 have no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^\[tool\.cibuildwheel\.environment\]\nCMAKE_ARGS = "(.+)"$', text, re.MULTILINE).group(1)


def build_wheel_offline(sdist, folder, **env):
    """The wheel, from the unpacked source distribution, with every way to an index closed."""
    with tarfile.open(sdist) as tar:
        tar.extractall(folder)  # our own archive
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    # in the `pip wheel` process and in all that it starts
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "COMPRESSKV_SDIST": ""}
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-cache-dir")
    run(*pip, "--wheel-dir", ROOT / "dist", ".", cwd=source, **{**offline, **env})
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
    return python


def try_variants(python, folder):
    """Take the CPU code that is used away, until only the plain one is left; each time the answer stays the same."""
    (lib,) = (folder / "env").glob("lib/python*/site-packages/compresskv_edge/lib")
    print("variants:", ", ".join(sorted(path.stem for path in lib.glob("libggml-cpu-*"))))
    run(python, "-c", STOCK_TRIAL, cwd=folder)
    first = tried = variant_trial(python, folder)
    for _ in range(2):
        (lib / tried["loaded"][0]).unlink()
        tried = compare(first, variant_trial(python, folder))
    for path in lib.glob("libggml-cpu-*"):
        if path.stem != "libggml-cpu-x64":
            path.unlink()
    compare(first, variant_trial(python, folder))


def variant_trial(python, folder):
    """The trial with one thread: {"loaded": [file name], "text": answer, "kept": (n_layer, n) positions}."""
    code = TRIAL.replace("verbose=False", "verbose=False, n_threads=1, n_threads_batch=1") + VARIANT
    output = subprocess.run([str(python), "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    if len(found["loaded"]) != 1:
        sys.exit(f"one variant of the CPU code should be loaded, not {found['loaded']}")
    return found


def compare(first, found):
    """Same answer and, but for rounding between scores that are nearly equal, the same tokens."""
    pairs = list(zip(first["kept"], found["kept"]))
    n_other = sum(len(set(mine) ^ set(others)) // 2 for mine, others in pairs)
    print(f"{found['loaded'][0]}: {n_other} of {sum(map(len, first['kept']))} kept tokens differ, {found['text']!r}")
    if found["text"] != first["text"] or n_other > 0.02 * sum(map(len, first["kept"])):
        sys.exit(f"{found['loaded'][0]} does not do what {first['loaded'][0]} does: {first['text']!r}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", action="store_true")
    variants = parser.parse_args().variants
    run("make", "sdist")
    sdist = newest("*.tar.gz")
    print(f"{sdist.name}: {sdist.stat().st_size / 2**20:.1f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"CMAKE_ARGS": release_settings()} if variants else {}
        wheel = build_wheel_offline(sdist, Path(folder), **settings)
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as folder:
        python = try_wheel(wheel, Path(folder))
        if variants:
            try_variants(python, Path(folder))
    print("sdist and wheel are good")


if __name__ == "__main__":
    main()
