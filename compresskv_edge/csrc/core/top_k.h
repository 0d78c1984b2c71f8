#pragma once

#include <cstdint>
#include <vector>

// indices of the k largest scores, ascending; ties as the reference implementation's top-k resolves them on a CPU. the
// specification is compresskv_edge/topk.py
std::vector<int32_t> ckv_top_k(const std::vector<float> & scores, int32_t k);
