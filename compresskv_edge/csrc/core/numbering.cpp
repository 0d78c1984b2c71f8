#include "core/numbering.h"

#include <algorithm>

llama_pos ckv_numbering::position(llama_pos token) const {
    return token >= first_live ? token - n_rebased : (llama_pos) (std::lower_bound(kept.begin(), kept.end(), token) - kept.begin());
}

bool ckv_numbering::holds(llama_pos token) const {
    return token >= first_live || std::binary_search(kept.begin(), kept.end(), token);
}

static void ckv_drop_oldest(std::vector<llama_pos> & kept, const std::vector<llama_pos> & protect, int64_t n_max) {
    int64_t n_drop = std::max<int64_t>((int64_t) kept.size() - n_max, 0);

    const auto drops = [&](llama_pos pos) { return n_drop > 0 && !std::binary_search(protect.begin(), protect.end(), pos) && n_drop-- > 0; };

    kept.erase(std::remove_if(kept.begin(), kept.end(), drops), kept.end());
}

ckv_numbering ckv_close_gaps(const ckv_numbering & before, std::vector<llama_pos> held, const std::vector<llama_pos> & protect,
        llama_pos first_live, int32_t n_live, int32_t window, int32_t n_max) {
    ckv_numbering res;
    res.first_live = first_live;
    res.kept       = std::move(held);

    ckv_drop_oldest(res.kept, protect, (int64_t) n_max - n_live - window);

    const llama_pos first = first_live - before.n_rebased; // as upstream counts now

    res.n_rebased = before.n_rebased + std::max((first - (llama_pos) res.kept.size())/window*window, 0);

    return res;
}
