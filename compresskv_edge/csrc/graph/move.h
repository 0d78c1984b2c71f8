#pragma once

#include "graph/compute.h"

// rows of a tensor, in this order, become rows 0, 1, ... of another one, or of itself
struct ckv_move {
    ggml_tensor * from;
    ggml_tensor * to;
};

// bytes are moved, never decoded. false: memory or the device failed
bool ckv_move_rows(llama_ckv & ckv, const std::vector<ckv_move> & moves, const std::vector<int32_t> & rows);

bool ckv_is_made_of_words(const ggml_tensor * t); // only such rows can be rearranged in place

void ckv_copy_rows(ggml_tensor * from, int64_t first_from, ggml_tensor * to, int64_t first_to, int64_t n); // n neighbours
