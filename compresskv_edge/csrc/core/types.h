#pragma once

// core/ is what can be said of a compressed cache without a model, a tensor or a device: which rows, which tokens, which
// positions. It is compiled without llama.cpp; tests/native/ runs it alone.

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

// as in llama.h: C++ allows a typedef to be said twice
typedef int32_t llama_pos;
typedef int32_t llama_seq_id;

static constexpr size_t CKV_MAX_SEQ = 256; // LLAMA_MAX_SEQ; upstream/access.cpp compares the two

using ckv_seq_set = std::bitset<CKV_MAX_SEQ>;

// indices into the tokens that a layer holds of a sequence, ascending
using ckv_kept = std::vector<int32_t>;

// a used cell of the tail
struct ckv_cell {
    uint32_t  cell;
    llama_pos pos; // as upstream counts
};

using ckv_cells = std::vector<ckv_cell>; // in order of position
