"""GGUF files that are headers and nothing else."""

from __future__ import annotations

import gguf


def write_gguf(path, arch="llama", n_head=4, n_head_kv=2, head_dim=None):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("header")
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    if n_head is not None:
        writer.add_head_count(n_head)
    if n_head_kv is not None:
        writer.add_head_count_kv(n_head_kv)
    if head_dim is not None:
        writer.add_key_length(head_dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
