#include "core/top_k.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

using indices = std::vector<int32_t>;

static std::vector<float> cycle(int32_t factor, int32_t modulus, int32_t n) {
    std::vector<float> res;
    for (int32_t i = 0; i < n; ++i) {
        res.push_back((float) (factor*i % modulus));
    }
    return res;
}

// the same cases as tests/test_topk.py: what torch.topk 2.13.0 returned on a CPU, each with a tie at its boundary
TEST_CASE("ties are broken as torch breaks them") {
    CHECK(ckv_top_k(std::vector<float>(5, 1.0f), 2)            == indices { 2, 4 });
    CHECK(ckv_top_k(std::vector<float>(10, 1.0f), 5)           == indices { 5, 6, 7, 8, 9 });
    CHECK(ckv_top_k({ 0, 2, 2, 2, 1, 2, 2 }, 3)                == indices { 3, 5, 6 });
    CHECK(ckv_top_k({ 5, 5, 5, 0, 0, 0, 5, 5, 5 }, 3)          == indices { 1, 6, 7 });
    CHECK(ckv_top_k({ 3, 1, 3, 2, 3, 1, 3, 0, 3, 3 }, 4)       == indices { 0, 4, 6, 8 });
    CHECK(ckv_top_k(cycle(37, 7, 300), 20) ==
        indices { 31, 38, 45, 59, 73, 94, 101, 108, 115, 185, 192, 199, 206, 220, 227, 234, 241, 255, 262, 269 });
}

TEST_CASE("few of many are found by a heap, whose ties are others") {
    CHECK(ckv_top_k(std::vector<float>(200, 1.0f), 3) == indices { 0, 1, 2 });
    CHECK(ckv_top_k(cycle(7, 5, 200), 1)  == indices { 2 });
    CHECK(ckv_top_k(cycle(7, 5, 200), 3)  == indices { 2, 7, 12 });
    CHECK(ckv_top_k(cycle(5, 3, 64), 1)   == indices { 1 });
    CHECK(ckv_top_k(cycle(13, 6, 128), 2) == indices { 5, 11 });
}

TEST_CASE("distinct scores give the plain answer, whatever the size") {
    std::mt19937 random(7);

    for (int32_t n = 1; n < 400; n += 7) {
        std::vector<float> scores(n);
        std::iota(scores.begin(), scores.end(), -3.0f);
        std::shuffle(scores.begin(), scores.end(), random);

        for (const int32_t k : { 1, n/70 + 1, n/2 + 1, n }) {
            indices want(n);
            std::iota(want.begin(), want.end(), 0);
            std::sort(want.begin(), want.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
            want.resize(k);
            std::sort(want.begin(), want.end());

            CAPTURE(n);
            CAPTURE(k);
            CHECK(ckv_top_k(scores, k) == want);
        }
    }
}

TEST_CASE("a row that defeats every pivot is still right") {
    for (const int32_t n : { 42, 300, 2000 }) { // the median of three is a bad pivot every time
        std::vector<float> scores;
        for (int32_t j = 0; j < n/2; ++j) {
            scores.push_back((float) -(j % 2 == 0 ? j + 1 : n/2 + j));
        }
        for (int32_t j = 0; j < n/2; ++j) {
            scores.push_back((float) (-2*(j + 1)));
        }
        const auto kept = ckv_top_k(scores, n/3);

        std::vector<float> best = scores, found;
        std::sort(best.begin(), best.end(), std::greater<float>());
        best.resize(n/3);
        for (const int32_t i : kept) {
            found.push_back(scores[i]);
        }
        std::sort(found.begin(), found.end(), std::greater<float>());
        CHECK(found == best);
    }
}

TEST_CASE("NaN counts as the largest, as in torch") {
    CHECK(ckv_top_k({ 1, NAN, 3, 2 }, 2) == indices { 1, 2 });
}
