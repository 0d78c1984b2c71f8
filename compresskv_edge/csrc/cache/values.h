#pragma once

// Keys and values as numbers on the host: read, dequantised, and written, quantised.

#include "cache/cache.h"

// rows of a cache tensor
//   dst, src: (n_head_kv, n, head_dim)
void ckv_read_rows(const ggml_tensor * t, const std::vector<int32_t> & rows, int64_t n_head_kv, float * dst);

std::vector<uint8_t> ckv_encode_rows(const ggml_tensor * t, size_t n_rows, int64_t n_head_kv, const float * src);
void                 ckv_write_rows (ggml_tensor * t, const std::vector<int32_t> & rows, const std::vector<uint8_t> & bytes) noexcept;

bool ckv_can_encode(const ggml_tensor & t); // false: only tables that belong to a model's weights could quantise to this type
bool ckv_is_finite (const ggml_tensor & t, const float * src, size_t n_rows); // false: a value that attention could not live with

// the last queries of a layer, scaled as ckv.h says
//   rows: (n,) of the ring    q: (n_head, n, head_dim_k)
void ckv_read_ring(const llama_ckv & ckv, int32_t ikv, const ggml_tensor * ring, const std::vector<int32_t> & rows, float * q);
