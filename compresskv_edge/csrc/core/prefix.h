#pragma once

// The frozen prefix: a block of rows in every layer for each compressed sequence, or for several that were forked from one.

#include "core/numbering.h"
#include "core/types.h"

struct ckv_block {
    ckv_seq_set seqs; // none: nobody sees the rows, they go with the next move

    llama_pos pos_frozen = 0; // upstream's positions before this one are in the block or evicted

    std::vector<std::vector<llama_pos>> pos; // (n_layers of the cache, rows of the block in that layer), ascending, as in ckv.h
};

struct ckv_prefix {
    std::vector<ckv_block> blocks; // in the order of their rows in every layer

    size_t size()  const { return blocks.size(); }
    bool   empty() const { return blocks.empty(); }

    uint32_t first_row(size_t ikv, size_t block) const;
    uint32_t n_rows   (size_t ikv) const; // of all blocks
    uint32_t n_rows   (size_t ikv, llama_seq_id seq_id) const;

    bool same_rows(size_t a, size_t b) const; // whether each block has as many rows in both layers

    int32_t   block_of  (llama_seq_id seq_id) const; // -1: nothing of it is frozen
    llama_pos pos_frozen(llama_seq_id seq_id) const; // as upstream counts

    bool is_dead() const; // there are rows, and nobody sees any

    // positions p0 .. p1-1 are all of a sequence that ends at pos_max
    bool is_all(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos pos_max) const;

    // a frozen token cannot be removed alone: in which layers it still is differs
    bool can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos pos_max) const;

    // all of the prefix or nothing of it, and to a sequence that has none of its own
    bool can_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) const;

    void leave(llama_seq_id seq_id);

    // tokens before `first_live` that some layer of the sequence holds, ascending
    std::vector<llama_pos> held(llama_seq_id seq_id, llama_pos first_live) const;

    // all tokens of a layer, prefix, then tail: positions as in ckv.h, and the tensor rows that hold them
    std::vector<llama_pos> positions(size_t ikv, llama_seq_id seq_id, const ckv_cells & own, llama_pos n_rebased) const;
    std::vector<int32_t>   rows     (size_t ikv, llama_seq_id seq_id, const ckv_cells & own) const;
};

std::vector<int32_t> ckv_run(uint32_t first, uint32_t n); // first, first + 1, ...

size_t ckv_run_length(const std::vector<int32_t> & rows, size_t first); // how many rows from `first` on are neighbours
