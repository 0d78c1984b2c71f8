#pragma once

// The prefix changes: what a compression keeps of one sequence, beside what the others have.

#include "cache/cache.h"

void ckv_reset(llama_ckv & ckv)                      noexcept; // the prefix goes; upstream clears the cells
void ckv_clear(llama_ckv & ckv, uint32_t n_tail_max) noexcept; // everything goes, and the tail shrinks to rows that every layer has

// a change of all layers, one after the other. one that has begun and is not done, for want of memory or by an exception,
// leaves layers of different tokens and no common tail: what is left means nothing, and the cache is emptied
struct ckv_change {
    explicit ckv_change(llama_ckv & cache) : ckv(cache) {}
    ~ckv_change();

    llama_ckv & ckv;

    bool begun = false;
    bool done  = false;
};

// blocks and cells of the others; of seq_id the given cells stay
ckv_layout ckv_layout_of_others(const llama_ckv & ckv, llama_seq_id seq_id, const ckv_cells & live);

// rearrange all layers; on failure the cache is unchanged, or empty if a layer had been moved already
bool ckv_rebuild(llama_ckv & ckv, ckv_layout layout);

// replace the sequence's rows in every layer by the kept ones and leave its window in the tail; the last n_guide tokens go
//   kept: (n_layers of the cache,)
bool ckv_gather(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<ckv_kept> & kept, uint32_t n_guide);

// the sequence's rows become its own; those not in `next` go
bool ckv_unshare(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next);
