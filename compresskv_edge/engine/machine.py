"""Facts of this machine and this process that measurements are published with. No paths, no host names."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from ..version import __version__
from . import library

_M_MMAP_THRESHOLD = -3  # malloc.h


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge the times. `load` is the number of processes that wanted a core, one-minute mean."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "compresskv_edge": __version__,
        "library": library.version(),
    }


def physical_cores() -> int:
    """Cores without hyper-threading's second half, of Apple's the fast ones: what decoding is fastest on."""
    n_cpu = os.cpu_count() or 1
    if sys.platform == "darwin":
        counts = (_output_of("sysctl", "-n", name) for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"))
        return next((int(count) for count in counts if count.isdigit()), n_cpu)
    with contextlib.suppress(OSError):
        if Path("/sys/devices/system/cpu/smt/active").read_text(encoding="ascii").strip() == "1":
            return max(n_cpu // 2, 1)
    return n_cpu


def cpu_name() -> str:
    """The CPU's name as its system tells it, else its architecture."""
    if sys.platform == "darwin":
        return _output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    with contextlib.suppress(OSError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in lines}
        for key in ("model name", "Model", "Hardware"):  # x86, Raspberry Pi, other ARM boards
            if facts.get(key):
                return facts[key]
    return platform.processor() or platform.machine()


def align_large_blocks_alike() -> None:
    """Make glibc map every large block by itself, at the same offset from a page, for the rest of the process.

    ggml's CPU work buffer is aligned by chance otherwise, and tiled flash attention is up to a fifth slower where it
    misses a cache line (docs/lab-notes.md, 2026-11-22): contexts that are compared must draw the same lot.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries: as they are
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 64 << 10)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
