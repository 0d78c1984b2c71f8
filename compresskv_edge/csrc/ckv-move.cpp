// moving rows: what a compression keeps of one sequence, beside what the others have

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>

llama_ckv::no_abort::no_abort(llama_context * lctx) : lctx(lctx) {
    if (lctx) {
        callback = lctx->abort_callback;
        data     = lctx->abort_callback_data;
        lctx->set_abort_callback(nullptr, nullptr);
    }
}

llama_ckv::no_abort::~no_abort() {
    if (lctx) {
        lctx->set_abort_callback(callback, data);
    }
}

// a layer whose tensors have the right size already is rearranged in place: memory stays flat from one compression to
// the next. rows that are not made of words cannot be
bool llama_ckv::fits_in_place(int32_t ikv, uint32_t n_rows) const {
    const auto fits = [&](const ggml_tensor * t) { return t->ne[1] == n_rows && t->nb[1] % sizeof(int32_t) == 0; };

    return lctx && fits(tensor_k(ikv)) && fits(tensor_v(ikv));
}

// blocks that nobody sees are left out; of seq_id the cells in `live` stay
ckv_layout llama_ckv::layout_without(llama_seq_id seq_id, const std::vector<uint32_t> & live) const {
    ckv_layout res;
    res.rows.resize(layers.size());

    for (size_t b = 0; b < blocks.size(); ++b) {
        ckv_block block = blocks[b];
        block.seqs.reset(seq_id);
        if (block.seqs.none()) {
            continue;
        }

        std::vector<std::vector<int32_t>> rows(layers.size());
        for (size_t i = 0; i < layers.size(); ++i) {
            rows[i].resize(block.pos[i].size());
            std::iota(rows[i].begin(), rows[i].end(), first_row(i, b));
        }
        add_block(res, std::move(block), rows);
    }

    for (const uint32_t cell : tail_cells(-1)) {
        ckv_cell next = { cell, cells().seq_get_all(cell) };

        next.seqs.reset(seq_id);
        if (std::find(live.begin(), live.end(), cell) != live.end()) {
            next.seqs.set(seq_id);
        }
        if (next.seqs.any()) {
            res.cells.push_back(next);
        }
    }
    return res;
}

void llama_ckv::add_block(ckv_layout & layout, ckv_block block, const std::vector<std::vector<int32_t>> & rows) const {
    layout.blocks.push_back(std::move(block));

    for (size_t i = 0; i < layers.size(); ++i) {
        layout.rows[i].insert(layout.rows[i].end(), rows[i].begin(), rows[i].end());
    }
}

bool llama_ckv::gather(llama_seq_id seq_id, const std::vector<ckv_kept> & kept) {
    const auto own = tail_cells(seq_id);
    const std::vector<uint32_t> live(own.end() - settings.window, own.end());

    ckv_layout layout = layout_without(seq_id, live);

    ckv_block block;
    block.seqs.set(seq_id);
    block.pos_frozen = cells().pos_get(live[0]);
    block.pos.resize(layers.size());

    std::vector<std::vector<int32_t>> rows_new(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        GGML_ASSERT(kept[i].size() >= settings.window && "the window is always kept");

        const auto rows_old = rows(i, seq_id);
        const auto pos_old  = positions(i, seq_id);

        for (size_t j = 0; j + settings.window < kept[i].size(); ++j) {
            rows_new[i] .push_back(rows_old[kept[i][j]]);
            block.pos[i].push_back(pos_old [kept[i][j]]);
        }
    }
    add_block(layout, std::move(block), rows_new);
    layout.n_tail = tail_for(layout, 0);

    return rebuild(layout);
}

// one layer after the other, each old tensor freed before the next new one is allocated: at no time is there more than
// the full cache and one compressed layer
bool llama_ckv::rebuild(const ckv_layout & layout) {
    const no_abort scope(lctx);

    bool moved = false;

    for (size_t i = 0; i < layers.size(); ++i) {
        if (!move_layer(i, layout, moved)) {
            if (moved) {
                clear(settings.n_tail); // layers of different tokens and no common tail: what is left means nothing
            }
            return false;
        }
    }

    blocks = layout.blocks;
    generation++;

    set_cells(layout.cells, layout.n_tail);
    place_tails(layout.n_tail);

    release_compute();

    return true;
}

// moved: set once the layer's old rows are no longer what they were
bool llama_ckv::move_layer(int32_t ikv, const ckv_layout & layout, bool & moved) {
    std::vector<int32_t> rows = layout.rows[ikv];

    const uint32_t n_rows = pad_rows(ikv, std::max<uint32_t>(rows.size() + layout.n_tail, n_rows_min(ikv)));

    const uint32_t n_old = n_prefix(ikv);
    for (const auto & cell : layout.cells) {
        rows.push_back(n_old + cell.cell);
    }

    if (fits_in_place(ikv, n_rows)) {
        moved = true;
        return fill(ikv, rows, current(ikv));
    }

    ckv_store store;
    if (!alloc(ikv, n_rows, store) || !fill(ikv, rows, store)) {
        return false;
    }
    moved = true;
    install(ikv, store);

    return true;
}
