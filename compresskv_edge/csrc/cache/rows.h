#pragma once

// The tensors of the layers: allocating them, moving rows between or within them, freeing the old ones.

#include "cache/cache.h"

// false: no memory, logged
bool ckv_alloc(const llama_ckv & ckv, int32_t ikv, uint32_t n_rows, ckv_store & store);

// the layer takes the store, its old tensors are freed
void ckv_install(llama_ckv & ckv, int32_t ikv, ckv_store & store);

// the given rows of a layer become rows 0, 1, ... of tensors with n_rows; the ring of queries comes along
//   moved: set once the layer's old rows are no longer what they were
bool ckv_move_layer(llama_ckv & ckv, int32_t ikv, const std::vector<int32_t> & rows, uint32_t n_rows, bool & moved);

// tensors of another number of rows, contents stay; a layer that got its new size already works as well as with the old
//   n_rows: (n_layers of the cache,)
bool ckv_resize_rows(llama_ckv & ckv, const std::vector<uint32_t> & n_rows);

uint32_t ckv_rows_min(const llama_ckv & ckv, int32_t ikv); // what llama_ckv_reserve() asked for: the tensors never shrink below

void ckv_find_row_steps(llama_ckv & ckv);

void ckv_place_tails(llama_ckv & ckv) noexcept; // after each change of tensors, prefix or tail

bool ckv_keep_queries(llama_ckv & ckv, uint32_t n_tokens); // false: no memory, and all is as it was

// the compute buffers were sized for the whole prompt: back to the size that the compressed cache needs
void ckv_release_compute(llama_ckv & ckv);
