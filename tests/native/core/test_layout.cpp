// Layouts against a model of the cache in which every row holds a name: whatever is decoded, forked, compressed and removed,
// each sequence must find its own tokens, in every layer.

#include "core/layout.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

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

    int n_names = 0;

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
        REQUIRE(layout.n_tail >= layout.cells.size() + WINDOW);

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

    void compress(llama_seq_id s, std::mt19937 & random) {
        const auto own = tail(s);
        if (own.size() < WINDOW) {
            return;
        }
        std::vector<ckv_kept> kept(N_LAYER);
        for (size_t il = 0; il < N_LAYER; ++il) {
            std::vector<int> names;
            for (size_t i = 0; i < want[il][s].size(); ++i) {
                if (i + WINDOW >= want[il][s].size() || random() % 2) {
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
        REQUIRE(prefix.can_cp(from, to, 0, INT32_MAX));
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

    void check() const {
        for (size_t il = 0; il < N_LAYER; ++il) {
            for (llama_seq_id s = 0; s < (llama_seq_id) N_SEQ; ++s) {
                std::vector<int> found;
                for (const int32_t row : prefix.rows(il, s, tail(s))) {
                    found.push_back(rows[il].at(row));
                }
                CHECK(found == want[il][s]);

                const auto pos = prefix.positions(il, s, tail(s), 0);
                CHECK(pos.size() == found.size());
                CHECK(std::is_sorted(pos.begin(), pos.end()));
                CHECK((pos.empty() || pos.back() == next[s] - 1));
            }
        }
    }
};

TEST_CASE("every sequence finds its tokens after any history") {
    for (unsigned seed = 0; seed < 50; ++seed) {
        CAPTURE(seed);
        std::mt19937 random(seed);
        model_cache  cache;

        for (int step = 0; step < 200; ++step) {
            const auto s = (llama_seq_id) (random() % N_SEQ);
            switch (random() % 12) {
                case 0:  cache.compress(s, random);                              break;
                case 1:  cache.fork(s, (llama_seq_id) (random() % N_SEQ));       break;
                case 2:  cache.remove(s);                                        break;
                case 3:  cache.unshare(s);                                       break;
                default: cache.decode(s);                                        break;
            }
            cache.check();
        }
    }
}

TEST_CASE("rows that nobody sees go with the next move") {
    std::mt19937 random(1);
    model_cache  cache;
    for (int i = 0; i < 10; ++i) {
        cache.decode(0);
        cache.decode(1);
    }
    cache.compress(0, random);
    cache.remove(0);
    CHECK(cache.prefix.size() == 1);
    cache.compress(1, random);
    CHECK(cache.prefix.size() == 1);
    CHECK(cache.prefix.block_of(1) == 0);
    cache.check();
}

TEST_CASE("a tail has its size, a multiple of it for several sequences, or grows in steps up to the context") {
    ckv_layout layout;
    CHECK(ckv_tail_for(layout, 0, SIZE) == 6);
    CHECK(ckv_tail_for(layout, 5, SIZE) == 8);
    CHECK(ckv_tail_for(layout, 195, SIZE) == 200);
    CHECK(ckv_tail_for(layout, 300, SIZE) == 302); // more than the context: the caller knows better

    layout.cells = { { 0, 1 }, { 1, 2 } }; // of sequences 0 and 1
    CHECK(ckv_tail_for(layout, 0, SIZE) == 12);

    CHECK(ckv_pad(17, 8) == 24);
    CHECK(ckv_pad(16, 8) == 16);
    CHECK(ckv_grown(195, SIZE) == 200);
}

TEST_CASE("a re-base drops what it does not hold") {
    std::mt19937 random(3);
    model_cache  cache;
    for (int i = 0; i < 12; ++i) {
        cache.decode(0);
    }
    cache.compress(0, random);

    ckv_numbering next;
    next.first_live = 10;
    next.kept       = cache.prefix.held(0, 5);
    next.kept.erase(next.kept.begin());

    ckv_layout layout = ckv_layout_without(cache.prefix, N_LAYER, cache.used(), 0, {});
    ckv_layout_own(layout, cache.prefix, 0, cache.tail(0), next);
    layout.n_tail = ckv_tail_for(layout, 0, SIZE);
    cache.apply(layout);

    for (const auto & pos : cache.prefix.blocks[0].pos) {
        CHECK(std::all_of(pos.begin(), pos.end(), [&](llama_pos p) { return next.holds(p); }));
    }
    CHECK(cache.prefix.pos_frozen(0) == 10);
    CHECK(cache.tail(0).size() == WINDOW);
}
