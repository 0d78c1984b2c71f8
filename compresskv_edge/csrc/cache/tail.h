#pragma once

// The tail: upstream's cells, as many as what is decoded needs. It grows with what is decoded and shrinks with each
// compression.

#include "cache/cache.h"

bool ckv_adopt       (llama_ckv & ckv);                    // one buffer a layer, query rings beside it
bool ckv_make_room   (llama_ckv & ckv, uint32_t n_tokens); // for n_tokens more
bool ckv_prompt_begin(llama_ckv & ckv, uint32_t n_tokens); // as ckv_make_room, and compute buffers for all of the prompt at once

// an empty tail that an earlier prompt has grown goes back to its size; its rows go with the next allocation
void ckv_shrink_tail(llama_ckv & ckv);

// rows for prefix and tail of the sequence's coming compressions; contents stay
//   n_prefix: (n_layers of the cache,)
bool ckv_reserve_rows(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<uint32_t> & n_prefix);
