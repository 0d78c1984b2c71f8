#include "cache/tail.h"

#include "cache/rows.h"

#include <algorithm>

// from one buffer for all layers, which can only be freed as a whole and holds a stub, to one a layer
bool ckv_adopt(llama_ckv & ckv) {
    ckv.layers.resize(ckv.up.n_layer());

    if (ckv.up.is_dry_run()) {
        return true;
    }

    ckv_find_row_steps(ckv);

    const uint32_t n_tail_first = std::min(ckv.n_ctx, ckv.settings.n_tail);

    const auto shared = ckv.up.take_buffers(); // freed at the end

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        ckv_store store;
        if (!ckv_alloc(ckv, i, ckv.pad_rows(i, n_tail_first), store)) {
            return false;
        }
        ckv_install(ckv, i, store);
    }
    ckv.up.keep_cells(0, n_tail_first);
    ckv_place_tails(ckv);

    return true;
}

// rows that every layer needs for a tail of n_tail
static std::vector<uint32_t> ckv_rows_for(const llama_ckv & ckv, uint32_t n_tail) {
    std::vector<uint32_t> res;
    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        res.push_back(ckv.pad_rows(i, std::max(ckv.prefix.n_rows(i) + n_tail, ckv_rows_min(ckv, i))));
    }
    return res;
}

static bool ckv_grow(llama_ckv & ckv, uint32_t n_tail_new) {
    ckv.up.synchronize();

    if (!ckv_resize_rows(ckv, ckv_rows_for(ckv, n_tail_new))) {
        return false;
    }

    ckv.up.keep_cells(ckv.up.n_tail(), n_tail_new);
    ckv_place_tails(ckv);

    return true;
}

bool ckv_make_room(llama_ckv & ckv, uint32_t n_tokens) {
    const uint32_t n_need = ckv.up.n_used() + n_tokens;

    return n_need <= ckv.up.n_tail() || ckv_grow(ckv, ckv_grown(n_need, ckv.tail_size()));
}

bool ckv_prompt_begin(llama_ckv & ckv, uint32_t n_tokens) {
    const uint32_t n_before = ckv.up.n_tail();

    if (!ckv_make_room(ckv, n_tokens)) {
        return false;
    }
    if (ckv.up.n_tail() > n_before) {
        ckv.up.reserve_later();
    }
    return true;
}

void ckv_shrink_tail(llama_ckv & ckv) {
    if (ckv.up.n_used() == 0 && ckv.up.n_tail() > ckv.settings.n_tail) {
        ckv.up.keep_cells(0, ckv.settings.n_tail);
        ckv_place_tails(ckv);
        ckv.generation++;
    }
}

bool ckv_reserve_rows(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<uint32_t> & n_prefix) {
    auto & reserved = ckv.seqs[seq_id].reserved;

    std::vector<uint32_t> other = n_prefix; // the new ones while they are tried, the ones before if they cannot be had

    reserved.swap(other);
    try {
        if (ckv_resize_rows(ckv, ckv_rows_for(ckv, ckv.up.n_tail()))) {
            return true;
        }
    } catch (...) {
        reserved.swap(other);
        throw;
    }
    reserved.swap(other);

    return false;
}
