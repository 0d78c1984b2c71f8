#include "ckv-select.h"

#include "ckv-cache.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

std::vector<double> ckv_attention(const float * q, const float * k, int32_t window, int32_t n_tokens, int32_t head_dim) {
    std::vector<double> res(n_tokens, 0.0);
    std::vector<double> row(n_tokens);

    for (int32_t i = 0; i < window; ++i) {
        const int32_t n_visible = n_tokens - window + i + 1;

        double max = -std::numeric_limits<double>::infinity();
        for (int32_t j = 0; j < n_visible; ++j) {
            double dot = 0.0;
            for (int32_t c = 0; c < head_dim; ++c) {
                dot += (double) q[i*head_dim + c]*k[(size_t) j*head_dim + c];
            }
            row[j] = dot/std::sqrt((double) head_dim);
            max = std::max(max, row[j]);
        }

        double sum = 0.0;
        for (int32_t j = 0; j < n_visible; ++j) {
            row[j] = std::exp(row[j] - max);
            sum += row[j];
        }
        for (int32_t j = 0; j < n_visible; ++j) {
            res[j] += row[j]/sum;
        }
    }

    return res;
}

static double ckv_pool_at(const std::vector<double> & x, int32_t i, int32_t kernel, enum llama_ckv_pooling pooling) {
    const int32_t n  = x.size();
    const int32_t i0 = std::max(i - kernel/2, 0);
    const int32_t i1 = std::min(i + kernel/2 + 1, n);

    if (pooling == LLAMA_CKV_POOLING_MAX) {
        return *std::max_element(x.begin() + i0, x.begin() + i1);
    }

    double sum = 0.0;
    for (int32_t j = i0; j < i1; ++j) {
        sum += x[j];
    }
    return sum/kernel;
}

std::vector<float> ckv_pool(const std::vector<std::vector<double>> & scores, int32_t kernel, enum llama_ckv_pooling pooling) {
    std::vector<float> res(scores[0].size());

    for (size_t i = 0; i < res.size(); ++i) {
        double sum = 0.0;
        for (const auto & x : scores) {
            sum += ckv_pool_at(x, i, kernel, pooling);
        }
        res[i] = sum/scores.size();
    }

    return res;
}

//
// top-k. when several scores equal the k-th largest and only some fit, the set is a matter of the algorithm, and plateaus
// are common after max pooling. these are the steps of topk.py, one function each
//

struct ckv_ranking {
    const std::vector<float> & scores;

    std::vector<int32_t> row; // a permutation of the indices

    bool before(int32_t a, int32_t b) const {
        return scores[a] > scores[b] || (std::isnan(scores[a]) && !std::isnan(scores[b]));
    }

    int32_t median(int32_t a, int32_t b, int32_t c) const {
        if (before(row[a], row[b])) {
            return before(row[b], row[c]) ? b : before(row[a], row[c]) ? c : a;
        }
        return before(row[a], row[c]) ? a : before(row[b], row[c]) ? c : b;
    }

    int32_t partition(int32_t first, int32_t last) {
        std::swap(row[first], row[median(first + 1, first + (last - first)/2, last - 1)]);

        const int32_t pivot = row[first];

        int32_t low  = first + 1;
        int32_t high = last  - 1;

        while (true) {
            while (before(row[low], pivot)) {
                low++;
            }
            while (before(pivot, row[high])) {
                high--;
            }
            if (low >= high) {
                return low;
            }
            std::swap(row[low++], row[high--]);
        }
    }

    void insertion_sort(int32_t first, int32_t last) {
        for (int32_t i = first + 1; i < last; ++i) {
            const int32_t item = row[i];

            int32_t j = i;
            for (; j > first && before(item, row[j - 1]); --j) {
                row[j] = row[j - 1];
            }
            row[j] = item;
        }
    }

    void sift(int32_t first, int32_t hole, int32_t size, int32_t item) {
        const int32_t top = hole;

        while (2*hole + 2 < size) {
            int32_t child = 2*hole + 2;
            if (before(row[first + child], row[first + child - 1])) {
                child--;
            }
            row[first + hole] = row[first + child];
            hole = child;
        }
        if (2*hole + 1 < size) {
            row[first + hole] = row[first + 2*hole + 1];
            hole = 2*hole + 1;
        }
        while (hole > top && before(row[first + (hole - 1)/2], item)) {
            row[first + hole] = row[first + (hole - 1)/2];
            hole = (hole - 1)/2;
        }
        row[first + hole] = item;
    }

    void heap_select(int32_t first, int32_t middle, int32_t last) {
        const int32_t size = middle - first;

        for (int32_t hole = (size - 2)/2; size > 1 && hole >= 0; --hole) {
            sift(first, hole, size, row[first + hole]);
        }
        for (int32_t i = middle; i < last; ++i) {
            if (before(row[i], row[first])) {
                const int32_t item = row[i];

                row[i] = row[first];
                sift(first, 0, size, item);
            }
        }
    }

    void intro_select(int32_t nth) {
        int32_t first = 0;
        int32_t last  = row.size();
        int32_t depth = 0;

        for (size_t n = row.size(); n > 1; n /= 2) {
            depth += 2;
        }

        while (last - first > 3) {
            if (depth-- == 0) {
                heap_select(first, nth + 1, last);
                std::swap(row[first], row[nth]);
                return;
            }
            const int32_t cut = partition(first, last);

            (cut <= nth ? first : last) = cut;
        }

        insertion_sort(first, last);
    }
};

std::vector<int32_t> ckv_top_k(const std::vector<float> & scores, int32_t k) {
    ckv_ranking ranking = { scores, std::vector<int32_t>(scores.size()) };

    for (size_t i = 0; i < scores.size(); ++i) {
        ranking.row[i] = i;
    }

    if ((size_t) k*64 <= scores.size()) {
        ranking.heap_select(0, k, scores.size());
    } else {
        ranking.intro_select(k - 1);
    }

    ranking.row.resize(k);
    std::sort(ranking.row.begin(), ranking.row.end());

    return ranking.row;
}

std::vector<int32_t> ckv_select(const std::vector<std::vector<double>> & scores, int32_t window, int32_t budget,
        int32_t kernel, enum llama_ckv_pooling pooling, const std::vector<int32_t> & pinned) {
    const int32_t n_tokens = scores[0].size();
    const int32_t n_before = std::max(n_tokens - window, 0);

    std::vector<std::vector<double>> candidates = scores;
    for (auto & x : candidates) {
        x.resize(n_before);
    }

    const int32_t k = std::min(budget, n_tokens) - window;

    std::vector<int32_t> res;
    if (k > 0) {
        std::vector<float> pooled = ckv_pool(candidates, kernel, pooling);
        for (const int32_t i : pinned) {
            if (i < n_before) {
                pooled[i] = std::numeric_limits<float>::infinity();
            }
        }
        res = ckv_top_k(pooled, k);
    }
    for (int32_t i = n_before; i < n_tokens; ++i) {
        res.push_back(i);
    }

    return res;
}

//
// C API
//

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
    if (!q || !k || !heads || !kept) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "q, k, heads or kept is NULL");
    }

    const std::string why = ckv_check_select(n_head, window, n_head_kv, n_tokens, head_dim, heads, n_heads, budget, kernel, pooling);
    if (!why.empty()) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, why);
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

    const auto res = ckv_select(scores, window, budget, kernel, (enum llama_ckv_pooling) pooling);
    std::copy(res.begin(), res.end(), kept);

    return res.size();
}
