#include "core/prefix.h"

#include <doctest/doctest.h>

using tokens = std::vector<llama_pos>;
using rows   = std::vector<int32_t>;

static ckv_block block(std::vector<size_t> seqs, llama_pos pos_frozen, std::vector<tokens> pos) {
    ckv_block res;
    for (const size_t s : seqs) {
        res.seqs.set(s);
    }
    res.pos_frozen = pos_frozen;
    res.pos        = std::move(pos);
    return res;
}

// two layers; sequences 0 and 2 share the first block, 1 has the second
static ckv_prefix example() {
    return { { block({ 0, 2 }, 10, { { 0, 5, 9 }, { 1, 2, 3, 4 } }), block({ 1 }, 20, { { 7 }, {} }) } };
}

TEST_CASE("rows are counted block by block") {
    const auto prefix = example();

    CHECK(prefix.first_row(0, 1) == 3);
    CHECK(prefix.n_rows(0) == 4);
    CHECK(prefix.n_rows(1) == 4);
    CHECK(prefix.n_rows(0, 1) == 1);
    CHECK(prefix.n_rows(1, 1) == 0);
    CHECK(prefix.n_rows(0, 3) == 0);
    CHECK_FALSE(prefix.same_rows(0, 1));
    CHECK(prefix.same_rows(1, 1));
}

TEST_CASE("a layer's tokens are those of the prefix, then the tail's") {
    const auto      prefix = example();
    const ckv_cells own    = { { 6, 20 }, { 2, 21 } };

    CHECK(prefix.positions(0, 1, own, 100) == tokens { 7, 120, 121 });
    CHECK(prefix.rows     (0, 1, own)      == rows { 3, 4 + 6, 4 + 2 });
    CHECK(prefix.rows     (0, 3, own)      == rows { 4 + 6, 4 + 2 }); // nothing frozen
}

TEST_CASE("a removal must not reach into the prefix, unless it takes all") {
    const auto prefix = example();

    CHECK(prefix.can_rm(0, 10, 15, 14));
    CHECK(prefix.can_rm(0, 0, INT32_MAX, 14));
    CHECK_FALSE(prefix.can_rm(0, 9, 15, 14));
    CHECK_FALSE(prefix.can_rm(0, 0, 10, 14));
    CHECK(prefix.can_rm(3, 0, 5, 14));
    CHECK(prefix.is_all(0, 0, 10, 9));       // no tail: the prefix is all
    CHECK_FALSE(prefix.is_all(0, 0, 9, 8));  // but not less than it
}

TEST_CASE("a fork takes all of a prefix or nothing of it") {
    const auto prefix = example();

    CHECK(prefix.can_cp(0, 3, 0, INT32_MAX));
    CHECK(prefix.can_cp(0, 2, 0, INT32_MAX));       // the same block already
    CHECK_FALSE(prefix.can_cp(0, 1, 0, INT32_MAX)); // another one
    CHECK_FALSE(prefix.can_cp(0, 3, 0, 9));
    CHECK_FALSE(prefix.can_cp(0, 3, 4, INT32_MAX));
    CHECK(prefix.can_cp(0, 1, 10, INT32_MAX));      // only what is live
    CHECK(prefix.can_cp(3, 1, 0, INT32_MAX));       // nothing frozen
}

TEST_CASE("a prefix that everybody left is dead") {
    auto prefix = example();
    prefix.leave(0);
    prefix.leave(1);
    CHECK_FALSE(prefix.is_dead());

    prefix.leave(2);
    CHECK(prefix.is_dead());
    CHECK(prefix.block_of(0) == -1);
    CHECK(prefix.pos_frozen(0) == 0);
    CHECK_FALSE(ckv_prefix().is_dead());
}

TEST_CASE("what some layer holds") {
    CHECK(example().held(0, 100) == tokens { 0, 1, 2, 3, 4, 5, 9 });
    CHECK(example().held(0, 4)   == tokens { 0, 1, 2, 3 });
    CHECK(example().held(3, 100).empty());
}

TEST_CASE("neighbours") {
    CHECK(ckv_run(3, 2) == rows { 3, 4 });
    CHECK(ckv_run_length({ 1, 2, 3, 5, 4 }, 0) == 3);
    CHECK(ckv_run_length({ 1, 2, 3, 5, 4 }, 3) == 1);
}
