"""What the allocator does with a large block, in a process that was told and in one that was not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compresskv_edge.apps.server import allocator

# glibc marks a block that is a mapping of its own; after a larger one was freed it would take this one from an arena
CODE = """
import ctypes
from compresskv_edge.apps.server.allocator import LARGE_BYTES, give_memory_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
{call}
libc.free(libc.malloc(8 * LARGE_BYTES))
print(ctypes.c_size_t.from_address(libc.malloc(2 * LARGE_BYTES) - ctypes.sizeof(ctypes.c_size_t)).value & 2)
"""


def is_a_mapping(call):
    shown = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True)
    return bool(int(shown.stdout))


@pytest.mark.skipif(not allocator.give_memory_back(), reason="needs glibc")
def test_a_large_block_is_a_mapping_that_goes_when_it_is_freed():
    assert is_a_mapping("assert give_memory_back()")
    assert not is_a_mapping("")


def test_elsewhere_nothing_is_set(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.give_memory_back()
