#include "core/select.h"

#include <doctest/doctest.h>

#include <cmath>

using indices = std::vector<int32_t>;
using vectors = std::vector<std::vector<double>>;

TEST_CASE("attention is a causal softmax, summed over the window") {
    // two tokens, both in the window, head_dim 1: the first query sees itself only
    const float q[] = { 1.0f, 2.0f };
    const float k[] = { 0.5f, -1.0f };

    const double a = std::exp(1.0), b = std::exp(-2.0);

    const auto res = ckv_attention(q, k, 2, 2, 1);
    CHECK(res[0] == doctest::Approx(1.0 + a/(a + b)));
    CHECK(res[1] == doctest::Approx(b/(a + b)));
}

TEST_CASE("logits are divided by the root of head_dim, and large ones do not overflow") {
    const float q[] = { 3000.0f, 0.0f, 0.0f, 0.0f };
    const float k[] = { 2.0f, 0, 0, 0, 2.0f + 0.001f, 0, 0, 0 };

    const auto res = ckv_attention(q, k, 1, 2, 4);
    CHECK(res[0] + res[1] == doctest::Approx(1.0));
    CHECK(res[1]/res[0]   == doctest::Approx(std::exp(3000.0*(double) (2.001f - 2.0f)/2.0)).epsilon(1e-6));
}

TEST_CASE("average pooling divides by the kernel at the ends too; max pooling takes what is there") {
    CHECK(ckv_pool({ { 3, 0, 6 } }, 3, CKV_POOLING_AVG) == std::vector<float> { 1.0f, 3.0f, 2.0f });
    CHECK(ckv_pool({ { 3, 0, 6 } }, 3, CKV_POOLING_MAX) == std::vector<float> { 3.0f, 6.0f, 6.0f });
    CHECK(ckv_pool({ { 3, 0, 6 }, { 1, 1, 1 } }, 1, CKV_POOLING_MAX) == std::vector<float> { 2.0f, 0.5f, 3.5f }); // mean over the heads last
}

TEST_CASE("the window is kept, and the best of the others") {
    const vectors scores = { { 1, 5, 2, 4, 9, 9 } }; // the window's own scores are not looked at

    CHECK(ckv_select(scores, 2, 4, 1, CKV_POOLING_AVG) == indices { 1, 3, 4, 5 });
    CHECK(ckv_select(scores, 2, 2, 1, CKV_POOLING_AVG) == indices { 4, 5 });
    CHECK(ckv_select(scores, 2, 9, 1, CKV_POOLING_AVG) == indices { 0, 1, 2, 3, 4, 5 });
    CHECK(ckv_select({ { 1, 2 } }, 4, 4, 1, CKV_POOLING_AVG) == indices { 0, 1 }); // fewer tokens than a window
}

TEST_CASE("the window's scores do not leak into its neighbours") {
    CHECK(ckv_select({ { 2, 1, 1, 100 } }, 1, 2, 3, CKV_POOLING_MAX) == ckv_select({ { 2, 1, 1, 0 } }, 1, 2, 3, CKV_POOLING_MAX));
}

TEST_CASE("pinned tokens are kept whatever their score") {
    const vectors scores = { { 0, 5, 0, 4, 9, 9 } };

    CHECK(ckv_select(scores, 2, 4, 1, CKV_POOLING_AVG, { 0 })    == indices { 0, 1, 4, 5 });
    CHECK(ckv_select(scores, 2, 4, 1, CKV_POOLING_AVG, { 0, 2 }) == indices { 0, 2, 4, 5 });
    CHECK(ckv_select(scores, 2, 4, 1, CKV_POOLING_AVG, { 0, 5 }) == indices { 0, 1, 4, 5 }); // 5 is in the window anyway
}
