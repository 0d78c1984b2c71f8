#pragma once

// Which queries a ring holds: the last tokens of a sequence, that at position p in row p % size.

#include "core/types.h"

struct ckv_ring {
    std::vector<llama_pos> pos; // (size,) position whose query a row holds, -1: none

    explicit ckv_ring(uint32_t size = 0) : pos(size, -1) {}

    uint32_t size() const { return (uint32_t) pos.size(); }

    int32_t row(llama_pos p) const { return p % (int32_t) pos.size(); }

    void set(llama_pos p) { pos[row(p)] = p; }

    void clear();
    void forget(llama_pos p0, llama_pos p1); // positions p0 .. p1-1 hold other tokens from now on

    // rows of the tokens that end at position `last` without a gap, oldest first; at most `size`
    std::vector<int32_t> rows(llama_pos last) const;
};
