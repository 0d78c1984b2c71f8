#pragma once

// Semantic scores on the device that holds the layer (arXiv:2508.02401, eq. 2 and 3): the arithmetic of
// compresskv_edge/scoring.py up to the pooling, which needs one float a token and runs on the host.

#include "ckv.h"
#include "graph/compute.h"

// attention of the window to every row of the sequence, summed over the window's queries; false: memory or the device failed
//   scores: (1, n_rows) mean over the layer's heads, or (n_heads, n_rows) for max pooling, where the mean comes last
bool ckv_score(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, std::vector<std::vector<float>> & scores);

// the same attention in one vector, whatever the pooling
//   scores: (n_rows,)
bool ckv_score(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, enum llama_ckv_reduce reduce, std::vector<float> & scores);
