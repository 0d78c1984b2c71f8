"""How much memory is free: of this machine, within the limits of its control groups, and of the devices of a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import psutil

from . import devices

_CGROUPS = Path("sys/fs/cgroup")
# of a control group: its limit, what it uses, and which of that are pages of files that it can give back
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def free_bytes(root: Path = Path("/")) -> int:
    """What this process may still take without swapping. root: of the file systems with the control groups."""
    groups = (max(limit - used, 0) for limit, used in _limits(root))
    return min([int(psutil.virtual_memory().available), *groups])


def total_bytes(root: Path = Path("/")) -> int:
    """What this process may take at most."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits(root))])


def free_for_cache(model: Any, context: Any, n_layer: int) -> int:
    """Bytes that K and V of all layers may take where they lie; of several places the tightest one decides.

    model, context: llama_model_params and llama_context_params of the binding, as the model was loaded.
    """
    shares = _layers_on_devices(model, n_layer) if context.offload_kqv else {}
    n_host = n_layer - sum(shares.values())
    rooms = [device.memory_free * n_layer / n for device, n in shares.items() if device.memory_total]
    if n_host or not rooms or any(device.kind != devices.GPU for device in shares):  # others share the host's memory
        rooms.append(free_bytes() * n_layer / (n_host or n_layer))
    return int(min(rooms))


def _layers_on_devices(model: Any, n_layer: int) -> Dict[devices.Device, int]:
    """Layers on each device: the last n_gpu_layers - 1, as the output counts as a layer; negative: all."""
    n_most = n_layer if model.n_gpu_layers < 0 else min(max(model.n_gpu_layers - 1, 0), n_layer)
    if n_most == 0:
        return {}
    found = devices.for_layers(model)
    split = [model.tensor_split[i] for i in range(len(found))] if model.tensor_split else []
    weights = split if sum(split) else [max(device.memory_free, 1) for device in found]  # llama.cpp's default
    ends = [round(n_most * sum(weights[: i + 1]) / sum(weights)) for i in range(len(found))]
    return {device: end - start for device, start, end in zip(found, [0, *ends], ends) if end > start}


def _limits(root: Path) -> Iterator[Tuple[int, int]]:
    """(limit, used) in bytes of each control group that this process is in and that has a limit."""
    for names, folder in _groups(root):
        limit, used = (_number(folder / name) for name in names[:2])
        if limit is not None and used is not None:
            yield limit, used - _inactive(folder, names[2])


def _groups(root: Path) -> Iterator[Tuple[Tuple[str, str, str], Path]]:
    """Its groups and those around them. Inside a container the path may be one of the host: then the mount is left."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        names, mount = (_V2, _CGROUPS) if number == "0" else (_V1, _CGROUPS / "memory")
        if number == "0" or "memory" in controllers.split(","):
            inside = Path(path.lstrip("/"))
            yield from ((names, root / mount / each) for each in (inside, *inside.parents))


def _number(file: Path) -> Optional[int]:
    """None for "max" and where there is no such file."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _inactive(folder: Path, name: str) -> int:
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(rows.get(name, 0))
    except (OSError, ValueError):
        return 0
