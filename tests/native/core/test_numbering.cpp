#include "core/numbering.h"

#include <doctest/doctest.h>

using tokens = std::vector<llama_pos>;

TEST_CASE("without a rebase a token is at its own position") {
    const ckv_numbering plain;

    CHECK(plain.position(0) == 0);
    CHECK(plain.position(7) == 7);
    CHECK(plain.holds(7));
}

TEST_CASE("kept tokens get consecutive positions, live ones move by a multiple of the window") {
    // 100 tokens, of which 92 .. 99 are live and five older ones kept: the hole before 92 is 87, of which 80 are taken out
    const auto next = ckv_close_gaps({}, { 0, 3, 40, 41, 90 }, {}, 92, 8, 8, 1000);

    CHECK(next.n_rebased == 80);
    CHECK(next.position(0)  == 0);
    CHECK(next.position(40) == 2);
    CHECK(next.position(90) == 4);
    CHECK(next.position(92) == 12);
    CHECK(next.position(99) == 19);
    CHECK(next.holds(41));
    CHECK_FALSE(next.holds(42));
}

TEST_CASE("a second rebase counts from the first") {
    const auto first  = ckv_close_gaps({}, { 0, 3, 40, 41, 90 }, {}, 92, 8, 8, 1000);
    const auto second = ckv_close_gaps(first, { 0, 3, 40, 41, 90, 95, 120 }, {}, 180, 8, 8, 1000);

    CHECK(second.n_rebased == 80 + (180 - 80 - 7)/8*8);
    CHECK(second.position(180) == 180 - second.n_rebased);
    CHECK(second.position(180) >= (llama_pos) second.kept.size());
    CHECK((second.n_rebased - first.n_rebased) % 8 == 0);
}

TEST_CASE("nothing moves where there is no gap") {
    CHECK(ckv_close_gaps({}, { 0, 1, 2 }, {}, 3, 5, 8, 1000).n_rebased == 0);
}

TEST_CASE("the oldest tokens that are not protected go until the rest fits") {
    const tokens held = { 0, 3, 40, 41, 90 };

    // 20 positions: 8 live ones and a window leave four
    CHECK(ckv_close_gaps({}, held, {}, 92, 8, 8, 20).kept == tokens { 3, 40, 41, 90 });
    CHECK(ckv_close_gaps({}, held, { 0, 3 }, 92, 8, 8, 19).kept == tokens { 0, 3, 90 });
    CHECK(ckv_close_gaps({}, held, { 0, 3 }, 92, 8, 8, 1).kept == tokens { 0, 3 }); // more than n_max: the caller's error
}
