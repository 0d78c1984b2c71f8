"""The tensors of a GGUF file: where they lie, what they hold, and which model they are.

`gguf.GGUFReader` builds arrays for every word of the tokenizer, seconds for a vocabulary of 150,000; here they are
skipped. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedModelError
from ..files import check_file
from .resolve import resolve

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# a stranger's header may not take more than this; the largest models have 300,000 words, as many merges, 2,000 tensors
_MAX_VALUES = 1 << 22
_MAX_FIELDS = 1 << 14
_MAX_TENSORS = 1 << 16
_MAX_DIMS = 4
_MAX_DEPTH = 2
_MAX_ALIGNMENT = 1 << 20

# of each tensor, this many blocks of this many bytes go into the hash: seconds even for a large model on an SD card
_HASH_BLOCKS = 16
_HASH_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies. `dims` in ggml's order, the row length first; `kind` is a ggml type."""

    path: str
    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int

    @property
    def n_bytes(self) -> int:
        sizes = gguf.GGML_QUANT_SIZES.get(gguf.GGMLQuantizationType(self.kind))  # ValueError for what is no type
        if sizes is None:
            raise ValueError(f"tensor {self.name!r} is of type {self.kind}")
        block, block_bytes = sizes
        return math.prod(self.dims) // int(block) * int(block_bytes)


@dataclass(frozen=True)
class GGUF:
    """A model's file, or all files of a split one: metadata without arrays, and tensors by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUF:
        """Read the headers of a file, or of a model by name (`resolve`).

        Raises ModelError, and UnsupportedModelError if a file is missing, cut off or no GGUF.
        """
        metadata: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for part in _parts(Path(resolve(path))):
            header = _read(part)
            metadata = {**header.metadata, **metadata}
            tensors.update((tensor.name, tensor) for tensor in header.tensors)
        return cls(metadata, tensors)

    def find(self, name: str) -> npt.NDArray[np.float32] | None:
        """A tensor's weights, dequantised: (rows, row length), or (row length,) of a vector; None if there is none."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        kind, shape = gguf.GGMLQuantizationType(tensor.kind), tuple(reversed(tensor.dims))
        try:
            raw = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (tensor.n_bytes,))
            data = raw.view(_PLAIN[kind.name]) if kind.name in _PLAIN else raw.reshape(*shape[:-1], -1)
            return np.asarray(gguf.dequantize(data, kind), dtype=np.float32).reshape(shape)
        except (OSError, ValueError) as error:
            raise UnsupportedModelError(
                f"tensor {name!r} of {tensor.path!r} cannot be read as {shape} of type {kind.name} ({error}): "
                "give the path of a complete .gguf file"
            ) from error
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"tensor {name!r} is of type {kind.name}, which gguf cannot dequantise: calibrate another quantisation "
                "of the same model, the profile serves both"
            ) from error

    def hash(self) -> str:
        """ "sha256:..." of all names, types and shapes and of a sample of the weights: identifies the model.

        Metadata has no part in it, so that an edited chat template or name changes nothing.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(repr((name, tensor.dims, tensor.kind)).encode())
            for block in _sample(tensor):
                digest.update(block)
        return f"sha256:{digest.hexdigest()}"


_PLAIN = {"F32": np.float32, "F16": np.float16}


def _sample(tensor: Tensor) -> Iterator[bytes]:
    n_bytes = tensor.n_bytes
    with open(tensor.path, "rb") as file:
        if n_bytes <= _HASH_BLOCKS * _HASH_BLOCK_BYTES:
            file.seek(tensor.offset)
            yield file.read(n_bytes)
            return
        for i in range(_HASH_BLOCKS):
            file.seek(tensor.offset + i * (n_bytes - _HASH_BLOCK_BYTES) // (_HASH_BLOCKS - 1))
            yield file.read(_HASH_BLOCK_BYTES)


def _parts(path: Path) -> list[Path]:
    """model-00001-of-00003.gguf stands for all three, if it says that it is split."""
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if not match or int(match[3]) < 2 or _read(path).metadata.get("split.count") in (None, 0, 1):
        return [path]
    return [path.with_name(f"{match[1]}-{i:05d}-of-{match[3]}.gguf") for i in range(1, int(match[3]) + 1)]


def _read(path: Path) -> _Header:
    """Raises UnsupportedModelError."""
    try:
        check_file(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(str(path), data)
    except (OSError, ValueError, struct.error) as error:
        raise UnsupportedModelError(
            f"cannot read the GGUF header of {str(path)!r} ({error}): give the path of a complete .gguf file"
        ) from error


class _Header:
    """A walk over the header of one file. It may come from a stranger: nothing in it is believed beyond _MAX_*."""

    def __init__(self, path: str, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.left = path, data, 0, _MAX_VALUES
        magic, version, n_tensors, n_fields = self.take("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("no GGUF of version 2 or 3")
        if n_fields > _MAX_FIELDS or n_tensors > _MAX_TENSORS:
            raise ValueError(f"{n_fields} fields and {n_tensors} tensors")
        self.metadata = {key: value for key, value in self.fields(n_fields) if value is not None}
        found = [self.tensor() for _ in range(n_tensors)]
        alignment = self.alignment()
        start = -(-self.at // alignment) * alignment
        self.tensors = [Tensor(path, name, dims, kind, start + offset) for name, dims, kind, offset in found]
        self.check_tensors()

    def alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if type(value) is not int or not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            raise ValueError(f"general.alignment is {value!r}, no power of two")
        return value

    def check_tensors(self) -> None:
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("two tensors have one name")
        if any(tensor.offset + tensor.n_bytes > len(self.data) for tensor in self.tensors):
            raise ValueError("the file ends before its tensors")

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def spend(self, n_values: int) -> None:
        """Of what all fields may hold together."""
        self.left -= n_values
        if self.left < 0:
            raise ValueError(f"more than {_MAX_VALUES} values in the header")

    def text(self) -> str:
        (length,) = self.take("Q")
        if length > len(self.data) - self.at:
            raise ValueError("the file ends inside its header")
        self.spend(1 + length // 16)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", errors="replace")

    def fields(self, count: int) -> Iterator[tuple[str, Any]]:
        seen = set()
        for _ in range(count):
            key = self.text()
            if key in seen:
                raise ValueError(f"two fields are named {key[:80]!r}")
            seen.add(key)
            (kind,) = self.take("I")
            yield key, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(_MAX_DEPTH)
        return self.take(_form(kind))[0]

    def array(self, depth: int) -> Any:
        """Numbers as a list; strings, the tokenizer's words, are skipped."""
        kind, length = self.take("IQ")
        self.spend(length)
        if kind == _STRING:
            self.skip_texts(length)
            return None
        if kind == _ARRAY:
            if depth == 0:
                raise ValueError("lists in lists in lists")
            return [self.array(depth - 1) for _ in range(length)]
        return list(self.take(f"{length}{_form(kind)}"))

    def skip_texts(self, count: int) -> None:
        at, read, end = self.at, struct.Struct("<Q").unpack_from, len(self.data)
        for _ in range(count):
            at += 8 + read(self.data, at)[0]
            if at > end:
                raise ValueError("the file ends inside its header")
        self.at = at

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (n_dims,) = self.take("I")
        if n_dims > _MAX_DIMS:
            raise ValueError(f"a tensor of {n_dims} dimensions")
        dims = self.take(f"{n_dims}Q")
        kind, offset = self.take("IQ")
        return name, dims, kind, offset


def _form(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"a field of type {kind}")
    return _FORMATS[kind]
