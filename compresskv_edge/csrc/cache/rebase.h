#pragma once

// Re-based positions: the positions that no layer holds any more are taken out, as if their tokens had never been there,
// and the kept keys are rotated by the difference. RoPE's rotations add up, so that this is upstream's K-shift with a shift
// of its own for every row; the same token gets the same position in every layer.

#include "cache/cache.h"

// pos: the sequence's next position, as upstream counts
ckv_numbering ckv_next_numbering(const llama_ckv & ckv, const ckv_swa & swa, llama_seq_id seq_id, llama_pos pos, int32_t n_max);

bool ckv_is_alone(const llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next); // nothing to move before its keys are rotated

// rotate keys and queries, and count as `next` says. false: what was left meant nothing, and the cache is empty
bool ckv_rebase(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next);
