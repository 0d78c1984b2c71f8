#include "layout_model.h"

#include <doctest/doctest.h>

#include <random>

TEST_CASE("every sequence finds its tokens after any history") {
    for (unsigned seed = 0; seed < 50; ++seed) {
        CAPTURE(seed);
        std::mt19937 random(seed);
        const auto   keeps = [&] { return random() % 2 == 0; };
        model_cache  cache;

        for (int step = 0; step < 200; ++step) {
            const auto s = (llama_seq_id) (random() % N_SEQ);
            switch (random() % 12) {
                case 0:  cache.compress(s, keeps);                               break;
                case 1:  cache.fork(s, (llama_seq_id) (random() % N_SEQ));       break;
                case 2:  cache.remove(s);                                        break;
                case 3:  cache.unshare(s);                                       break;
                default: cache.decode(s);                                        break;
            }
            CHECK(cache.is_consistent());
        }
    }
}

TEST_CASE("rows that nobody sees go with the next move") {
    std::mt19937 random(1);
    model_cache  cache;
    const auto   keeps = [&] { return random() % 2 == 0; };
    for (int i = 0; i < 10; ++i) {
        cache.decode(0);
        cache.decode(1);
    }
    cache.compress(0, keeps);
    cache.remove(0);
    CHECK(cache.prefix.size() == 1);
    cache.compress(1, keeps);
    CHECK(cache.prefix.size() == 1);
    CHECK(cache.prefix.block_of(1) == 0);
    CHECK(cache.is_consistent());
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
    const auto   keeps = [&] { return random() % 2 == 0; };
    for (int i = 0; i < 12; ++i) {
        cache.decode(0);
    }
    cache.compress(0, keeps);

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
