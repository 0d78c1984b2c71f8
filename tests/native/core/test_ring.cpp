#include "core/ring.h"

#include <doctest/doctest.h>

using rows = std::vector<int32_t>;

static ckv_ring after(uint32_t size, llama_pos n_decoded) {
    ckv_ring res(size);
    for (llama_pos p = 0; p < n_decoded; ++p) {
        res.set(p);
    }
    return res;
}

TEST_CASE("a ring gives the last tokens, oldest first") {
    CHECK(after(4, 3).rows(2) == rows { 0, 1, 2 });
    CHECK(after(4, 6).rows(5) == rows { 2, 3, 0, 1 });
    CHECK(after(4, 0).rows(-1).empty());
}

TEST_CASE("after a removal it gives what is known without a gap") {
    const auto ring = after(4, 10); // 6 .. 9

    CHECK(ring.rows(9).size() == 4);
    CHECK(ring.rows(8) == rows { 2, 3, 0 });
    CHECK(ring.rows(6) == rows { 2 });
    CHECK(ring.rows(5).empty());
}

TEST_CASE("a gap ends it") {
    ckv_ring ring = after(4, 10);
    ring.forget(8, 9);

    CHECK(ring.rows(9) == rows { 1 });

    ring.set(8);
    CHECK(ring.rows(9).size() == 4);

    ring.clear();
    CHECK(ring.rows(9).empty());
}

TEST_CASE("a ring without rows gives none") {
    CHECK(ckv_ring().rows(5).empty());
}
