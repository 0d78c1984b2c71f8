#include "core/select.h"

#include "core/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

static double ckv_pool_at(const std::vector<double> & x, int32_t i, int32_t kernel, enum ckv_pooling pooling) {
    const int32_t n  = (int32_t) x.size();
    const int32_t i0 = std::max(i - kernel/2, 0);
    const int32_t i1 = std::min(i + kernel/2 + 1, n);

    if (pooling == CKV_POOLING_MAX) {
        return *std::max_element(x.begin() + i0, x.begin() + i1);
    }

    double sum = 0.0;
    for (int32_t j = i0; j < i1; ++j) {
        sum += x[j];
    }
    return sum/kernel;
}

std::vector<float> ckv_pool(const std::vector<std::vector<double>> & scores, int32_t kernel, enum ckv_pooling pooling) {
    std::vector<float> res(scores[0].size());

    for (size_t i = 0; i < res.size(); ++i) {
        double sum = 0.0;
        for (const auto & x : scores) {
            sum += ckv_pool_at(x, (int32_t) i, kernel, pooling);
        }
        res[i] = (float) (sum/(double) scores.size());
    }

    return res;
}

std::vector<int32_t> ckv_select(const std::vector<std::vector<double>> & scores, int32_t window, int32_t budget,
        int32_t kernel, enum ckv_pooling pooling, const std::vector<int32_t> & pinned) {
    const int32_t n_tokens = (int32_t) scores[0].size();
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
