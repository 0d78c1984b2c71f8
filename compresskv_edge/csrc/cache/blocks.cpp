#include "cache/blocks.h"

#include "cache/rows.h"
#include "cache/sequences.h"

#include <algorithm>
#include <new>

void ckv_reset(llama_ckv & ckv) noexcept {
    ckv.prefix.blocks.clear();

    for (size_t s = 0; s < ckv.seqs.size(); ++s) {
        ckv_leave(ckv, (llama_seq_id) s);
    }

    ckv.generation++;

    ckv_place_tails(ckv);
}

void ckv_clear(llama_ckv & ckv, uint32_t n_tail_max) noexcept {
    ckv.up.clear_cells(); // which calls ckv_reset()
    ckv.up.shrink_cells(n_tail_max);
    ckv_place_tails(ckv);
}

ckv_layout ckv_layout_of_others(const llama_ckv & ckv, llama_seq_id seq_id, const ckv_cells & live) {
    return ckv_layout_without(ckv.prefix, ckv.layers.size(), ckv.up.tail_of_all(), seq_id, live);
}

bool ckv_gather(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<ckv_kept> & kept, uint32_t n_guide) {
    auto own = ckv.up.tail(seq_id);
    own.resize(own.size() - n_guide);

    const ckv_cells live { own.end() - ckv.settings.window, own.end() };

    ckv_layout layout = ckv_layout_of_others(ckv, seq_id, live);

    ckv_layout_keep(layout, ckv.prefix, seq_id, own, ckv.seqs[seq_id].numbering.n_rebased, ckv.settings.window, kept);
    layout.n_tail = ckv_tail_for(layout, 0, ckv.tail_size());

    if (!ckv_rebuild(ckv, std::move(layout))) {
        return false;
    }
    ckv_forget(ckv, seq_id, live.back().pos + 1, INT32_MAX);

    return true;
}

bool ckv_unshare(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next) {
    ckv_layout layout = ckv_layout_of_others(ckv, seq_id, {});

    ckv_layout_own(layout, ckv.prefix, seq_id, ckv.up.tail(seq_id), next);
    layout.n_tail = ckv_tail_for(layout, 0, ckv.tail_size());

    return ckv_rebuild(ckv, std::move(layout));
}

// the layout's rows of a layer, and its cells behind them
static bool ckv_rebuild_layer(llama_ckv & ckv, int32_t ikv, const ckv_layout & layout, bool & moved) {
    std::vector<int32_t> rows = layout.rows[ikv];

    const uint32_t n_rows = std::max((uint32_t) rows.size() + layout.n_tail, ckv_rows_min(ckv, ikv));
    const uint32_t n_old  = ckv.prefix.n_rows(ikv);

    for (const auto & placed : layout.cells) {
        rows.push_back((int32_t) (n_old + placed.cell));
    }

    return ckv_move_layer(ckv, ikv, rows, ckv.pad_rows(ikv, n_rows), moved);
}

ckv_change::~ckv_change() {
    if (begun && !done) {
        ckv_clear(ckv, ckv.settings.n_tail);
    }
}

// one layer after the other, each old tensor freed before the next new one is allocated: at no time is there more than
// the full cache and one compressed layer
static bool ckv_rebuild_layers(llama_ckv & ckv, ckv_layout layout) {
    const ckv_access::no_abort scope(ckv.up.lctx);

    ckv_change change(ckv);

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        if (!ckv_rebuild_layer(ckv, i, layout, change.begun)) {
            return false;
        }
    }

    ckv.up.set_cells(layout.cells, layout.n_tail);
    ckv.prefix.blocks = std::move(layout.blocks);
    ckv.generation++;
    ckv_place_tails(ckv);

    change.done = true;
    ckv_release_compute(ckv);

    return true;
}

bool ckv_rebuild(llama_ckv & ckv, ckv_layout layout) {
    try {
        return ckv_rebuild_layers(ckv, std::move(layout));
    } catch (const std::bad_alloc &) {
        return false;
    }
}
