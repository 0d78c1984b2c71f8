#include "cache/blocks.h"

#include "cache/rows.h"
#include "cache/sequences.h"

#include <algorithm>

void ckv_reset(llama_ckv & ckv) {
    ckv.prefix.blocks.clear();

    for (size_t s = 0; s < ckv.seqs.size(); ++s) {
        ckv_leave(ckv, (llama_seq_id) s);
    }

    ckv.generation++;

    ckv_place_tails(ckv);
}

void ckv_clear(llama_ckv & ckv, uint32_t n_tail_max) {
    ckv.up.clear_cells(); // which calls ckv_reset()
    ckv.up.keep_cells(0, std::min(ckv.up.n_tail(), n_tail_max));
    ckv_place_tails(ckv);
}

ckv_layout ckv_layout_of_others(const llama_ckv & ckv, llama_seq_id seq_id, const ckv_cells & live) {
    return ckv_layout_without(ckv.prefix, ckv.layers.size(), ckv.up.tail_of_all(), seq_id, live);
}

bool ckv_gather(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<ckv_kept> & kept) {
    const auto own = ckv.up.tail(seq_id);

    ckv_layout layout = ckv_layout_of_others(ckv, seq_id, { own.end() - ckv.settings.window, own.end() });

    ckv_layout_keep(layout, ckv.prefix, seq_id, own, ckv.seqs[seq_id].numbering.n_rebased, ckv.settings.window, kept);
    layout.n_tail = ckv_tail_for(layout, 0, ckv.tail_size());

    return ckv_rebuild(ckv, layout);
}

bool ckv_unshare(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next) {
    ckv_layout layout = ckv_layout_of_others(ckv, seq_id, {});

    ckv_layout_own(layout, ckv.prefix, seq_id, ckv.up.tail(seq_id), next);
    layout.n_tail = ckv_tail_for(layout, 0, ckv.tail_size());

    return ckv_rebuild(ckv, layout);
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

// one layer after the other, each old tensor freed before the next new one is allocated: at no time is there more than
// the full cache and one compressed layer
bool ckv_rebuild(llama_ckv & ckv, const ckv_layout & layout) {
    const ckv_access::no_abort scope(ckv.up.lctx);

    bool moved = false;

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        if (!ckv_rebuild_layer(ckv, i, layout, moved)) {
            if (moved) {
                ckv_clear(ckv, ckv.settings.n_tail); // layers of different tokens and no common tail: what is left means nothing
            }
            return false;
        }
    }

    ckv.prefix.blocks = layout.blocks;
    ckv.generation++;

    ckv.up.set_cells(layout.cells, layout.n_tail);
    ckv_place_tails(ckv);

    ckv_release_compute(ckv);

    return true;
}
