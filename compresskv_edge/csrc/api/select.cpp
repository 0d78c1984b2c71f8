// the selection alone, on given arrays

#include "api/api.h"
#include "core/select.h"

#include <algorithm>
#include <numeric>

static_assert((int) CKV_POOLING_AVG == (int) LLAMA_CKV_POOLING_AVG && (int) CKV_POOLING_MAX == (int) LLAMA_CKV_POOLING_MAX, "core/ does without ckv.h");

static std::string ckv_check_select(int32_t n_head, int32_t window, int32_t n_head_kv, int32_t n_tokens, int32_t head_dim,
        const int32_t * heads, int32_t n_heads, int32_t budget, int32_t kernel, int32_t pooling) {
    if (n_head_kv < 1 || n_head < 1 || n_head % n_head_kv != 0) {
        return std::to_string(n_head) + " query heads cannot share " + std::to_string(n_head_kv) + " KV heads evenly";
    }
    if (window < 1 || head_dim < 1 || n_tokens < 0) {
        return "window and head_dim must be positive, n_tokens not negative";
    }
    if (budget < window) {
        return "budget is " + std::to_string(budget) + " tokens, less than the window of " + std::to_string(window);
    }
    if (kernel < 1 || kernel % 2 == 0) {
        return "kernel is " + std::to_string(kernel) + ", not odd and positive";
    }
    if (pooling != LLAMA_CKV_POOLING_AVG && pooling != LLAMA_CKV_POOLING_MAX) {
        return "pooling is " + std::to_string(pooling) + ", not one of enum llama_ckv_pooling";
    }
    if (n_heads < 1) {
        return "no heads given";
    }
    for (int32_t i = 0; i < n_heads; ++i) {
        if (heads[i] < 0 || heads[i] >= n_head) {
            return "there is no head " + std::to_string(heads[i]) + " among " + std::to_string(n_head);
        }
    }
    return "";
}

int32_t llama_ckv_select(
        const float   * q,     int32_t n_head,    int32_t window,
        const float   * k,     int32_t n_head_kv, int32_t n_tokens, int32_t head_dim,
        const int32_t * heads, int32_t n_heads,
        int32_t budget, int32_t kernel, int32_t pooling,
        int64_t * kept) {
    return ckv_guard([=] {
        ckv_check_argument(q && k && heads && kept, "q, k, heads or kept is NULL");

        const std::string why = ckv_check_select(n_head, window, n_head_kv, n_tokens, head_dim, heads, n_heads, budget, kernel, pooling);
        if (!why.empty()) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, why);
        }

        if (n_tokens <= budget) {
            std::iota(kept, kept + n_tokens, 0);
            return n_tokens;
        }

        std::vector<std::vector<double>> scores;
        for (int32_t i = 0; i < n_heads; ++i) {
            const int32_t g = heads[i]/(n_head/n_head_kv);

            scores.push_back(ckv_attention(q + (size_t) heads[i]*window*head_dim, k + (size_t) g*n_tokens*head_dim, window, n_tokens, head_dim));
        }

        const auto res = ckv_select(scores, window, budget, kernel, (enum ckv_pooling) pooling);
        std::copy(res.begin(), res.end(), kept);

        return (int32_t) res.size();
    });
}
