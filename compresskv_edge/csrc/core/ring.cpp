#include "core/ring.h"

#include <algorithm>

void ckv_ring::clear() {
    std::fill(pos.begin(), pos.end(), -1);
}

void ckv_ring::forget(llama_pos p0, llama_pos p1) {
    std::replace_if(pos.begin(), pos.end(), [=](llama_pos p) { return p >= p0 && p < p1; }, -1);
}

std::vector<int32_t> ckv_ring::rows(llama_pos last) const {
    std::vector<int32_t> res;
    for (llama_pos p = last; p >= 0 && p > last - (int32_t) size() && pos[row(p)] == p; --p) {
        res.push_back(row(p));
    }
    std::reverse(res.begin(), res.end());

    return res;
}
