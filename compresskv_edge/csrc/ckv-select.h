#pragma once

// Pooling, top-k and the retained set, on the host; the specification is compresskv_edge/scoring.py and topk.py.

#include "ckv.h"

#include <cstdint>
#include <vector>

// pool every vector along the tokens, then take the mean over the vectors
//   scores: (n_vec, n_tokens)    returns (n_tokens,), rounded to float once, at the end
std::vector<float> ckv_pool(const std::vector<std::vector<double>> & scores, int32_t kernel, enum llama_ckv_pooling pooling);

// indices of the k largest scores, ascending; ties as the reference implementation's top-k resolves them on a CPU
std::vector<int32_t> ckv_top_k(const std::vector<float> & scores, int32_t k);

// the tokens that a layer keeps: the budget - window highest scores and the window itself
//   scores: (n_vec, n_tokens), of which the window's columns are not used
//   pinned: indices that are kept whatever their score, fewer than budget - window
std::vector<int32_t> ckv_select(const std::vector<std::vector<double>> & scores, int32_t window, int32_t budget,
        int32_t kernel, enum llama_ckv_pooling pooling, const std::vector<int32_t> & pinned = {});

// attention of one head's window to every token, summed over the window's queries
//   q: (window, head_dim)    k: (n_tokens, head_dim)    returns (n_tokens,)
std::vector<double> ckv_attention(const float * q, const float * k, int32_t window, int32_t n_tokens, int32_t head_dim);
