#include "core/layout.h"

#include <algorithm>

void ckv_layout::add(ckv_block block, const std::vector<std::vector<int32_t>> & rows_of_block) {
    blocks.push_back(std::move(block));

    for (size_t i = 0; i < rows.size(); ++i) {
        rows[i].insert(rows[i].end(), rows_of_block[i].begin(), rows_of_block[i].end());
    }
}

static bool ckv_is_among(const ckv_cells & cells, uint32_t cell) {
    return std::any_of(cells.begin(), cells.end(), [=](const ckv_cell & x) { return x.cell == cell; });
}

ckv_layout ckv_layout_without(const ckv_prefix & prefix, size_t n_layer, const std::vector<ckv_placed> & tail,
        llama_seq_id seq_id, const ckv_cells & live) {
    ckv_layout res;
    res.rows.resize(n_layer);

    for (size_t b = 0; b < prefix.size(); ++b) {
        ckv_block block = prefix.blocks[b];
        block.seqs.reset(seq_id);
        if (block.seqs.none()) {
            continue;
        }

        std::vector<std::vector<int32_t>> rows;
        for (size_t i = 0; i < n_layer; ++i) {
            rows.push_back(ckv_run(prefix.first_row(i, b), (uint32_t) block.pos[i].size()));
        }
        res.add(std::move(block), rows);
    }

    for (ckv_placed next : tail) {
        next.seqs.set(seq_id, ckv_is_among(live, next.cell));
        if (next.seqs.any()) {
            res.cells.push_back(next);
        }
    }
    return res;
}

static ckv_block ckv_new_block(llama_seq_id seq_id, llama_pos pos_frozen, size_t n_layer) {
    ckv_block res;
    res.seqs.set(seq_id);
    res.pos_frozen = pos_frozen;
    res.pos.resize(n_layer);
    return res;
}

void ckv_layout_keep(ckv_layout & layout, const ckv_prefix & prefix, llama_seq_id seq_id, const ckv_cells & own,
        llama_pos n_rebased, uint32_t window, const std::vector<ckv_kept> & kept) {
    ckv_block block = ckv_new_block(seq_id, own[own.size() - window].pos, kept.size());

    std::vector<std::vector<int32_t>> rows_new(kept.size());

    for (size_t i = 0; i < kept.size(); ++i) {
        const auto rows_old = prefix.rows     (i, seq_id, own);
        const auto pos_old  = prefix.positions(i, seq_id, own, n_rebased);

        for (size_t j = 0; j + window < kept[i].size(); ++j) {
            rows_new[i] .push_back(rows_old[kept[i][j]]);
            block.pos[i].push_back(pos_old [kept[i][j]]);
        }
    }
    layout.add(std::move(block), rows_new);
}

void ckv_layout_own(ckv_layout & layout, const ckv_prefix & prefix, llama_seq_id seq_id, const ckv_cells & own, const ckv_numbering & next) {
    const int32_t b = prefix.block_of(seq_id);

    if (b >= 0) {
        const ckv_block & before = prefix.blocks[b];

        ckv_block block = ckv_new_block(seq_id, before.pos_frozen, before.pos.size());

        std::vector<std::vector<int32_t>> rows(before.pos.size());
        for (size_t i = 0; i < rows.size(); ++i) {
            for (size_t j = 0; j < before.pos[i].size(); ++j) {
                if (next.holds(before.pos[i][j])) {
                    rows[i]     .push_back((int32_t) (prefix.first_row(i, b) + j));
                    block.pos[i].push_back(before.pos[i][j]);
                }
            }
        }
        layout.add(std::move(block), rows);
    }

    ckv_seq_set seqs;
    seqs.set(seq_id);
    for (const auto & cell : own) {
        layout.cells.push_back({ cell.cell, seqs });
    }
}

uint32_t ckv_pad(uint32_t n, uint32_t step) {
    return (n + step - 1)/step*step;
}

uint32_t ckv_grown(uint32_t n_need, const ckv_tail_size & size) {
    return std::min(ckv_pad(n_need, size.step), std::max(size.n_ctx, n_need));
}

uint32_t ckv_tail_for(const ckv_layout & layout, uint32_t n_more, const ckv_tail_size & size) {
    ckv_seq_set in_use;
    for (const auto & block : layout.blocks) {
        in_use |= block.seqs;
    }
    for (const auto & placed : layout.cells) {
        in_use |= placed.seqs;
    }

    const uint32_t n_need = (uint32_t) layout.cells.size() + n_more + size.window;
    const uint32_t n_tail = size.n_tail*(uint32_t) std::max<size_t>(in_use.count(), 1);

    return n_need <= n_tail ? n_tail : ckv_grown(n_need, size);
}
