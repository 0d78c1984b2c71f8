#pragma once

// A model of the cache in which every row holds a name: whatever is decoded, forked, compressed and removed, each sequence
// must find its own tokens, in every layer. For the unit tests and the fuzzer of core/.

#include "core/layout.h"

#include <algorithm>

static constexpr size_t   N_LAYER = 3;
static constexpr size_t   N_SEQ   = 4;
static constexpr uint32_t WINDOW  = 2;

static constexpr ckv_tail_size SIZE = { WINDOW, 6, 200, 8 };

struct model_cell {
    llama_pos   pos = -1;
    ckv_seq_set seqs;
};

struct model_cache {
    ckv_prefix prefix;

    std::vector<model_cell>       cells;         // (n_tail,)
    std::vector<std::vector<int>> rows;          // (n_layer, n_prefix + n_tail) names
    std::vector<std::vector<int>> want[N_LAYER]; // (n_seq, tokens) names that each layer must hold

    std::vector<llama_pos> next = std::vector<llama_pos>(N_SEQ, 0);

    int  n_names = 0;
    bool good    = true; // no step went wrong

    model_cache() : cells(SIZE.n_tail), rows(N_LAYER, std::vector<int>(SIZE.n_tail, -1)) {
        for (auto & layer : want) {
            layer.resize(N_SEQ);
        }
    }

    ckv_cells tail(llama_seq_id s) const {
        ckv_cells res;
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (cells[i].seqs.test(s)) {
                res.push_back({ i, cells[i].pos });
            }
        }
        std::stable_sort(res.begin(), res.end(), [](const ckv_cell & a, const ckv_cell & b) { return a.pos < b.pos; });
        return res;
    }

    std::vector<ckv_placed> used() const {
        std::vector<ckv_placed> res;
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (cells[i].seqs.any()) {
                res.push_back({ i, cells[i].seqs });
            }
        }
        std::stable_sort(res.begin(), res.end(), [&](const ckv_placed & a, const ckv_placed & b) { return cells[a.cell].pos < cells[b.cell].pos; });
        return res;
    }

    void apply(const ckv_layout & layout) {
        good = good && layout.n_tail >= layout.cells.size() + WINDOW;

        std::vector<model_cell> cells_new(layout.n_tail);
        for (size_t i = 0; i < layout.cells.size(); ++i) {
            cells_new[i] = { cells[layout.cells[i].cell].pos, layout.cells[i].seqs };
        }
        for (size_t il = 0; il < N_LAYER; ++il) {
            std::vector<int> res;
            for (const int32_t row : layout.rows[il]) {
                res.push_back(rows[il].at(row));
            }
            for (const auto & placed : layout.cells) {
                res.push_back(rows[il].at(prefix.n_rows(il) + placed.cell));
            }
            res.resize(layout.rows[il].size() + layout.n_tail, -1);
            rows[il] = res;
        }
        prefix.blocks = layout.blocks;
        cells = cells_new;
    }

    void decode(llama_seq_id s) {
        auto free = std::find_if(cells.begin(), cells.end(), [](const model_cell & cell) { return cell.seqs.none(); });
        if (free == cells.end()) {
            cells.resize(cells.size() + SIZE.step);
            for (auto & layer : rows) {
                layer.resize(layer.size() + SIZE.step, -1);
            }
            return decode(s);
        }
        free->pos = next[s]++;
        free->seqs.set(s);
        for (size_t il = 0; il < N_LAYER; ++il) {
            rows[il][prefix.n_rows(il) + (free - cells.begin())] = n_names;
            want[il][s].push_back(n_names);
        }
        n_names++;
    }

    // keeps(): whether to keep the next token
    template <typename keeps_t>
    void compress(llama_seq_id s, keeps_t && keeps) {
        const auto own = tail(s);
        if (own.size() < WINDOW) {
            return;
        }
        std::vector<ckv_kept> kept(N_LAYER);
        for (size_t il = 0; il < N_LAYER; ++il) {
            std::vector<int> names;
            for (size_t i = 0; i < want[il][s].size(); ++i) {
                if (i + WINDOW >= want[il][s].size() || keeps()) {
                    kept[il].push_back((int32_t) i);
                    names.push_back(want[il][s][i]);
                }
            }
            want[il][s] = names;
        }
        ckv_layout layout = ckv_layout_without(prefix, N_LAYER, used(), s, { own.end() - WINDOW, own.end() });
        ckv_layout_keep(layout, prefix, s, own, 0, WINDOW, kept);
        layout.n_tail = ckv_tail_for(layout, 0, SIZE);
        apply(layout);
    }

    void unshare(llama_seq_id s) {
        ckv_layout layout = ckv_layout_without(prefix, N_LAYER, used(), s, {});
        ckv_layout_own(layout, prefix, s, tail(s), {});
        layout.n_tail = ckv_tail_for(layout, 0, SIZE);
        apply(layout);
    }

    void remove(llama_seq_id s) {
        prefix.leave(s);
        for (auto & cell : cells) {
            cell.seqs.reset(s);
        }
        for (auto & layer : want) {
            layer[s].clear();
        }
        next[s] = 0;
    }

    void fork(llama_seq_id from, llama_seq_id to) {
        if (from == to) {
            return;
        }
        remove(to);
        good = good && prefix.can_cp(from, to, 0, INT32_MAX);
        if (prefix.block_of(from) >= 0) {
            prefix.blocks[prefix.block_of(from)].seqs.set(to);
        }
        for (auto & cell : cells) {
            cell.seqs.set(to, cell.seqs.test(from));
        }
        for (auto & layer : want) {
            layer[to] = layer[from];
        }
        next[to] = next[from];
    }

    bool is_consistent() const {
        bool res = good;
        for (size_t il = 0; il < N_LAYER; ++il) {
            for (llama_seq_id s = 0; s < (llama_seq_id) N_SEQ; ++s) {
                std::vector<int> found;
                for (const int32_t row : prefix.rows(il, s, tail(s))) {
                    found.push_back(rows[il].at(row));
                }
                const auto pos = prefix.positions(il, s, tail(s), 0);

                res = res && found == want[il][s] && pos.size() == found.size() && std::is_sorted(pos.begin(), pos.end());
                res = res && (pos.empty() || pos.back() == next[s] - 1);
            }
        }
        return res;
    }
};
