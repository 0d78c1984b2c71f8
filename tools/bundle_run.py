"""What a bundle of tools/bundle.py does where it was carried to. Standard library only, no network.

    python3 compresskv-cuda-90-x86_64.pyz [--out results] [--minutes 15]

Unpacks into a temporary folder, makes a virtual environment, runs the self-test, the tests of the device (5 minutes at
most), and in what is left of the time the benchmark, one budget after the other. OUT holds report.json, written after
every step, log.txt with all output, tests.xml and a JSON file for each budget. Exit 0: every step went well to its end.
"""

import argparse
import ctypes
import glob
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import xml.etree.ElementTree
import zipfile
from pathlib import Path

TEST_S = 300
SELFTEST_S = 60
RESERVE_S = 20  # of the time, for stopping the last step and leaving


class RunError(Exception):
    """This machine cannot do it; the message says what is missing."""


class Report:
    """report.json: on disk after every step, because a lent machine may be taken away."""

    def __init__(self, folder, about, deadline):
        self.folder, self.deadline = folder, deadline
        self.content = {**about, "system": system(), "steps": [], "error": None}
        self.write()

    def write(self):
        text = json.dumps(self.content, indent=2) + "\n"
        (self.folder / "report.json").write_text(text, encoding="utf-8")

    def left_s(self):
        return self.deadline - time.monotonic() - RESERVE_S

    def step(self, name, command, env, most_s, cwd):
        """Run a command, at most `most_s` seconds and what is left of all; whether it ended well."""
        limit_s = min(most_s, self.left_s())
        begin = time.monotonic()
        status = run(command, env, limit_s, cwd, self.folder / "log.txt") if limit_s > 0 else "no time was left"
        entry = {"name": name, "command": command, "status": status, "wall_s": round(time.monotonic() - begin, 1)}
        self.content["steps"].append(entry)
        self.write()
        print(f"{name}: {status} ({entry['wall_s']} s)", flush=True)
        return status == "ok"


def system():
    try:
        gpus = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    except OSError:
        gpus = ""
    return {"python": platform.python_version(), "platform": platform.platform(), "nvidia_smi": gpus.splitlines()}


def listen_to_ctrl_c():
    """A shell's background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command, env, limit_s, cwd, log):
    """ "ok", "exit <status>", or that it was stopped: asked first, so that pytest sums up what it has done."""
    with open(log, "a", encoding="utf-8") as out:
        print(f"\n+ {' '.join(command)}", file=out, flush=True)
        child = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=out, stderr=out, start_new_session=True, preexec_fn=listen_to_ctrl_c
        )
        for stop in (signal.SIGINT, signal.SIGKILL):
            try:
                status = child.wait(limit_s)
                return ("ok" if status == 0 else f"exit {status}") if stop == signal.SIGINT else "stopped: out of time"
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, stop)
                limit_s = RESERVE_S / 2
        child.wait()
        return "killed: out of time"


#
# what is there
#


def unpack(archive, plan, folder):
    """All files but the Python packages of other versions; returns the folder of those of this one."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if platform.machine() != plan["machine"] or version not in plan["pythons"]:
        raise RunError(
            f"made for Python {' or '.join(plan['pythons'])} on {plan['machine']}, "
            f"this is {version} on {platform.machine()}: try python{plan['pythons'][-1]}, or BUNDLE_PYTHONS={version}"
        )
    with archive.open("files.tar.xz") as file, tarfile.open(fileobj=file, mode="r|xz") as tar:
        for entry in tar:
            if not entry.name.startswith("site-") or entry.name.startswith(f"site-{version}/"):
                tar.extract(entry, folder)  # our own archive
    for library in (folder / "lib").glob("*.so*"):
        if not (folder / "stock" / library.name).exists():
            os.link(library, folder / "stock" / library.name)
    return folder / f"site-{version}"


def make_environment(folder, site):
    """A virtual environment, whose packages are where they were unpacked; returns its Python."""
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "bundle.pth").write_text(f"{folder / 'app'}\n{site}\n", encoding="utf-8")
    return str(folder / "env" / "bin" / "python")


def find_cublas(name):
    """The folder to look for cuBLAS in; None: the loader knows one. Toolkits, then wheels as PyTorch brings them."""
    try:
        ctypes.CDLL(name)
        return None
    except OSError:
        pass
    homes = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), *sorted(glob.glob("/usr/local/cuda*"))]
    patterns = [f"{home}/{lib}/{name}" for home in homes if home for lib in ("lib64", "lib", "targets/*/lib")]
    patterns += [f"{site}/nvidia/*/lib/{name}" for site in sys.path]
    found = [path for pattern in patterns for path in glob.glob(pattern)]
    if not found:
        raise RunError(f"no {name}: run this with the Python that has PyTorch, or set CUDA_PATH to a CUDA toolkit")
    return os.path.dirname(found[0])


def environment(folder, plan):
    cublas = find_cublas(plan["cublas"]) if plan["cublas"] else None
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder / "lib"), cublas, before])),
        "COMPRESSKV_LIB_PATH": str(folder / "lib"),
        "COMPRESSKV_STOCK_LIB": str(folder / "stock"),
        "CKV_SELFTEST": str(folder / "lib" / "ckv-selftest"),
        "HOME": str(folder),
        "PYTHONUNBUFFERED": "1",
    }


#
# the steps
#


def counts(path):
    """{"tests": n, "failures": n, "errors": n, "skipped": n} of pytest's XML; None if it wrote none."""
    if not path.exists():
        return None
    suite = next(xml.etree.ElementTree.parse(path).getroot().iter("testsuite"))
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def test(report, plan, folder, env, python):
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "--durations=10"]
    ok = report.step("doctor", [python, "-m", "compresskv_edge", "doctor"], env, SELFTEST_S, folder)
    ok &= report.step("self-test", [*pytest, "tests/test_selftest.py"], env, SELFTEST_S, folder)
    xml_file = report.folder / "tests.xml"
    device = [*pytest, "-v", "-k", plan["device"], f"--junitxml={xml_file}", *plan["tests"]]
    ok &= report.step("tests", device, env, TEST_S, folder)
    report.content["tests"] = counts(xml_file)
    report.write()
    return ok


def bench(report, plan, folder, env, python):
    ok = True
    for budget, options in plan["bench"].items():
        command = [python, "-m", "compresskv_edge", "bench", *options, "--cache-dir", str(folder / "models")]
        command += ["--json", str(report.folder / f"bench-{budget}.json")]
        ok &= report.step(f"bench-{budget}", command, env, report.left_s(), folder)
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--minutes", type=float, default=15.0)
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(sys.argv[0]) as archive, tempfile.TemporaryDirectory(prefix="compresskv-") as name:
        plan, folder = json.loads(archive.read("bundle.json")), Path(name)
        report = Report(out, {"bundle": plan}, deadline)
        try:
            site = unpack(archive, plan, folder)
            python, env = make_environment(folder, site), environment(folder, plan)
        except RunError as error:
            report.content["error"] = str(error)
            report.write()
            sys.exit(f"{Path(sys.argv[0]).name}: {error}")
        ok = test(report, plan, folder, env, python)
        return 0 if bench(report, plan, folder, env, python) & ok else 1


if __name__ == "__main__":
    sys.exit(main())
