#pragma once

#include "graph/compute.h"

// rows of a layer's keys or queries, each turned by RoPE as if its token had been shift positions further on
struct ckv_turn {
    ggml_tensor * t;
    int64_t       n_head;

    std::vector<int32_t> rows;
    std::vector<int32_t> shifts;
};

// false: memory or the device failed
bool ckv_turn_rows(llama_ckv & ckv, int32_t ikv, const ckv_turn & turn);
