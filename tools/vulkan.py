"""The Vulkan build in build/vulkan, for a GPU or for Mesa's software driver: `make build-vulkan`, `make test-vulkan`.

    python tools/vulkan.py build [--jobs N]    install what is missing (Debian, Ubuntu; as root), compile, link
    python tools/vulkan.py run COMMAND...      run a command with that build; refused without a Vulkan device

The headers of an older distribution lack what llama.cpp uses: those of Debian's next release are unpacked into
build/vulkan/headers, from the mirror that this machine's own package manager uses. So is a software driver of Debian's
backports in build/vulkan/driver, where the installed one is too old. Standard library only.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "vulkan"
TREE = BUILD / "cmake"
LIBRARIES = TREE / "bin"
STOCK = BUILD / "stock"
HEADERS = BUILD / "headers"
DRIVER = BUILD / "driver"

PACKAGES = ("mesa-vulkan-drivers", "libvulkan-dev", "glslc", "spirv-headers")
OLDEST_HEADERS = 309  # VK_HEADER_VERSION that llama.cpp's sources were compiled with here; Debian 12 has 239
NEXT_RELEASE = "trixie"  # Debian 13

# Mesa 22.3 binds all buffers that a descriptor set ever named, also those that the shader does not use and that were
# freed since: an eviction frees KV buffers, and ggml uses its sets again. 25.0 does not
BROKEN_DRIVER = 22
BACKPORTS = "bookworm-backports"
DRIVER_PACKAGES = ("mesa-vulkan-drivers", "libdrm2", "libdrm-amdgpu1")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

COUNT = """
import ctypes, sys
ggml = ctypes.CDLL(sys.argv[1] + "/libggml.so")
ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
ggml.ggml_backend_reg_dev_count.restype = ctypes.c_size_t
ggml.ggml_backend_reg_dev_count.argtypes = [ctypes.c_void_p]
backend = ggml.ggml_backend_reg_by_name(b"Vulkan")
print(ggml.ggml_backend_reg_dev_count(backend) if backend else 0)
"""


class VulkanError(Exception):
    """Something is missing; the message says what and where it comes from."""


def output_of(*command, **options):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    ).stdout


def run(*command, **options):
    print("+", *(Path(part).name if os.sep in str(part) else part for part in command), flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


#
# what the build needs
#


def is_installed(package):
    return output_of("dpkg-query", "--show", "--showformat=${Status}", package).endswith(" installed")


def install_packages():
    """Other systems than Debian and Ubuntu: cmake says what it does not find."""
    if not shutil.which("apt-get"):
        return
    missing = [package for package in PACKAGES if not is_installed(package)]
    if missing and os.geteuid() != 0:
        raise VulkanError(f"{', '.join(missing)} missing: as root, apt-get install {' '.join(missing)}")
    if missing:
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        run("apt-get", "update", "--quiet=2", **quiet)
        run("apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", *missing, **quiet)


def header_version(include):
    """VK_HEADER_VERSION of an include folder; 0: no headers."""
    path = Path(include) / "vulkan" / "vulkan_core.h"
    found = path.exists() and re.search(r"#define VK_HEADER_VERSION (\d+)", path.read_text(encoding="utf-8"))
    return int(found.group(1)) if found else 0


def system_include():
    sdk = os.environ.get("VULKAN_SDK")
    return Path(sdk) / "include" if sdk else Path("/usr/include")


def find_headers():
    """The include folder to name to cmake; None: the system's own."""
    if header_version(system_include()) >= OLDEST_HEADERS:
        return None
    include = HEADERS / "usr" / "include"
    if header_version(include) < OLDEST_HEADERS:
        unpack_newer_headers()
    if header_version(include) < OLDEST_HEADERS:
        raise VulkanError(f"{NEXT_RELEASE} has Vulkan headers {header_version(include)}, not {OLDEST_HEADERS} or newer")
    return include


def unpack_newer_headers():
    """libvulkan-dev of Debian's next release."""
    complaint = (
        f"the Vulkan headers are {header_version(system_include())}, llama.cpp needs {OLDEST_HEADERS} (Vulkan 1.4) "
        "or newer: install LunarG's Vulkan SDK and set VULKAN_SDK, or build on Debian 13"
    )
    unpack(["libvulkan-dev"], NEXT_RELEASE, HEADERS, complaint)


def unpack(packages, suite, folder, complaint):
    """Packages of another Debian suite, beside the installed ones: apt works in folders of its own."""
    mirror = output_of("apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian").split()
    if not mirror or not KEYRING.exists():
        raise VulkanError(complaint)
    state = BUILD / "apt" / suite
    for place in (state / "lists" / "partial", state / "cache" / "archives" / "partial", state / "none", folder):
        place.mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror[0]} {suite} main\n", encoding="utf-8")
    places = {
        "Dir::Etc::SourceList": "sources.list",
        "Dir::Etc::SourceParts": "none",
        "Dir::Etc::PreferencesParts": "none",
    }
    places.update({"Dir::State::Lists": "lists", "Dir::Cache": "cache"})
    options = [part for key, name in places.items() for part in ("-o", f"{key}={state / name}")]
    as_root = ("-o", "APT::Sandbox::User=root")
    run("apt-get", *options, *as_root, "update", "--quiet=2")
    for package in packages:
        run("apt-get", *options, *as_root, "download", "--quiet=2", f"{package}/{suite}", cwd=state)
        run("dpkg-deb", "--extract", next(state.glob(f"{package}_*.deb")), folder)


def driver_version():
    """Mesa's major version as installed; None: not from a Debian package."""
    found = shutil.which("dpkg-query") and output_of(
        "dpkg-query", "--show", "--showformat=${Version}", "mesa-vulkan-drivers"
    )
    number = re.match(r"(?:\d+:)?(\d+)\.", found or "")
    return int(number.group(1)) if number else None


def newer_driver():
    """The description of the unpacked software driver, for Vulkan's loader; None: the installed one will do."""
    version = driver_version()
    if version is None or version > BROKEN_DRIVER:
        return None
    description = DRIVER / "software.json"
    if not description.exists():
        complaint = (
            f"Mesa {version}'s software driver ends the process after an eviction, and this is no Debian, for which a "
            "newer one is unpacked: install Mesa 25 or newer"
        )
        unpack(DRIVER_PACKAGES, BACKPORTS, DRIVER, complaint)
        library = next(DRIVER.glob("usr/lib/*/libvulkan_lvp.so"))
        icd = {"file_format_version": "1.0.0", "ICD": {"library_path": str(library), "api_version": "1.3.0"}}
        description.write_text(json.dumps(icd), encoding="utf-8")
    return description


#
# build, run
#


def settings():
    yield from ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_VULKAN=ON", "-DCKV_STOCK=ON", f"-DCKV_STOCK_DIR={STOCK}")
    yield f"-DPython3_EXECUTABLE={sys.executable}"
    headers = find_headers()
    if headers:
        yield f"-DVulkan_INCLUDE_DIR={headers}"


def build(jobs):
    install_packages()
    newer_driver()
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", *generator, "-S", ROOT, "-B", TREE, *settings(), stdout=subprocess.DEVNULL)
    run("cmake", "--build", TREE, "--target", "all", "stock", "--parallel", jobs)


def environment():
    """llama.cpp leaves out software drivers: one is named only if there is no GPU, unless the user chose devices."""
    env = {**os.environ, "COMPRESSKV_LIB_PATH": str(LIBRARIES), "COMPRESSKV_STOCK_LIB": str(STOCK / "lib")}
    if "GGML_VK_VISIBLE_DEVICES" not in env and n_devices(env) == 0:
        env["GGML_VK_VISIBLE_DEVICES"] = "0"
        env.update(driver_environment(newer_driver()))
    return env


def driver_environment(description):
    if not description:
        return {}
    libraries = json.loads(description.read_text(encoding="utf-8"))["ICD"]["library_path"]
    path = [str(Path(libraries).parent), os.environ.get("LD_LIBRARY_PATH")]
    return {"VK_ICD_FILENAMES": str(description), "LD_LIBRARY_PATH": os.pathsep.join(filter(None, path))}


def n_devices(env):
    found = output_of(sys.executable, "-c", COUNT, LIBRARIES, env=env).split()
    return int(found[-1]) if found else 0  # the driver's loader ends the process if a named device is not there


def run_with_build(command):
    if not (LIBRARIES / "libllama.so").exists():
        raise VulkanError("there is no Vulkan build yet: make build-vulkan")
    env = environment()
    if n_devices(env) == 0:
        raise VulkanError(
            "no Vulkan device, not even a software driver: install the GPU's driver or mesa-vulkan-drivers"
        )
    os.execvpe(command[0], command, env)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True)
    commands.add_parser("build").add_argument("--jobs", type=int, default=os.cpu_count())
    commands.add_parser("run").add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.name == "build":
        build(given.jobs)
    else:
        run_with_build(given.command)


if __name__ == "__main__":
    try:
        main()
    except VulkanError as error:
        sys.exit(f"tools/vulkan.py: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"tools/vulkan.py: {Path(error.cmd[0]).name} failed, its message is above")
