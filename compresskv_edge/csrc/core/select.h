#pragma once

// Attention, pooling and the retained set, on the host; the specification is compresskv_edge/scoring.py.

#include <cstdint>
#include <vector>

enum ckv_pooling { // as enum llama_ckv_pooling
    CKV_POOLING_AVG = 0,
    CKV_POOLING_MAX = 1,
};

// pool every vector along the tokens, then take the mean over the vectors
//   scores: (n_vec, n_tokens)    returns (n_tokens,), rounded to float once, at the end
std::vector<float> ckv_pool(const std::vector<std::vector<double>> & scores, int32_t kernel, enum ckv_pooling pooling);

// the tokens that a layer keeps: the budget - window highest scores and the window itself
//   scores: (n_vec, n_tokens), of which the window's columns are not used
//   pinned: indices that are kept whatever their score, fewer than budget - window
std::vector<int32_t> ckv_select(const std::vector<std::vector<double>> & scores, int32_t window, int32_t budget,
        int32_t kernel, enum ckv_pooling pooling, const std::vector<int32_t> & pinned = {});

// attention of one head's window to every token, summed over the window's queries
//   q: (window, head_dim)    k: (n_tokens, head_dim)    returns (n_tokens,)
std::vector<double> ckv_attention(const float * q, const float * k, int32_t window, int32_t n_tokens, int32_t head_dim);
