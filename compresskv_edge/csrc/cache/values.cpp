#include "cache/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

static void ckv_decode(const ggml_tensor & t, const uint8_t * src, std::vector<float> & row) {
    if (t.type == GGML_TYPE_F32) {
        memcpy(row.data(), src, t.nb[1]);
    } else {
        ggml_get_type_traits(t.type)->to_float(src, row.data(), t.ne[0]);
    }
}

static void ckv_encode(const ggml_tensor & t, const std::vector<float> & row, uint8_t * dst) {
    if (t.type == GGML_TYPE_F32) {
        memcpy(dst, row.data(), t.nb[1]);
    } else {
        ggml_get_type_traits(t.type)->from_float_ref(row.data(), dst, t.ne[0]);
    }
}

// neighbours cross to the host, and to the device, together

void ckv_read_rows(const ggml_tensor * t, const std::vector<int32_t> & rows, int64_t n_head_kv, float * dst) {
    const int64_t d = t->ne[0]/n_head_kv;

    std::vector<uint8_t> bytes;
    std::vector<float>   row(t->ne[0]);

    for (size_t i = 0; i < rows.size();) {
        const size_t n = ckv_run_length(rows, i);

        bytes.resize(n*t->nb[1]);
        ggml_backend_tensor_get(t, bytes.data(), rows[i]*t->nb[1], bytes.size());

        for (size_t j = 0; j < n; ++j, ++i) {
            ckv_decode(*t, bytes.data() + j*t->nb[1], row);
            for (int64_t g = 0; g < n_head_kv; ++g) {
                std::copy_n(row.begin() + g*d, d, dst + (g*rows.size() + i)*d);
            }
        }
    }
}

std::vector<uint8_t> ckv_encode_rows(const ggml_tensor * t, size_t n_rows, int64_t n_head_kv, const float * src) {
    const int64_t d = t->ne[0]/n_head_kv;

    std::vector<uint8_t> res(n_rows*t->nb[1]);
    std::vector<float>   row(t->ne[0]);

    for (size_t i = 0; i < n_rows; ++i) {
        for (int64_t g = 0; g < n_head_kv; ++g) {
            std::copy_n(src + (g*n_rows + i)*d, d, row.begin() + g*d);
        }
        ckv_encode(*t, row, res.data() + i*t->nb[1]);
    }
    return res;
}

void ckv_write_rows(ggml_tensor * t, const std::vector<int32_t> & rows, const std::vector<uint8_t> & bytes) noexcept {
    for (size_t i = 0; i < rows.size();) {
        const size_t n = ckv_run_length(rows, i);

        ggml_backend_tensor_set(t, bytes.data() + i*t->nb[1], rows[i]*t->nb[1], n*t->nb[1]);
        i += n;
    }
}

bool ckv_can_encode(const ggml_tensor & t) {
    return t.type == GGML_TYPE_F32 || ggml_get_type_traits(t.type)->from_float_ref;
}

bool ckv_is_finite(const ggml_tensor & t, const float * src, size_t n_rows) {
    const float most = t.type == GGML_TYPE_F16 ? 65504.0f : INFINITY; // where f16 ends

    return std::all_of(src, src + n_rows*t.ne[0], [=](float x) { return std::isfinite(x) && std::fabs(x) <= most; });
}

void ckv_read_ring(const llama_ckv & ckv, int32_t ikv, const ggml_tensor * ring, const std::vector<int32_t> & rows, float * q) {
    std::vector<float> data(ggml_nelements(ring)); // (rows of the ring, n_head*head_dim)
    ggml_backend_tensor_get(ring, data.data(), 0, ggml_nbytes(ring));

    const int64_t n_head = ckv.up.n_head(ikv);
    const int64_t d      = ring->ne[0]/n_head;
    const int64_t n      = (int64_t) rows.size();

    // models fold their own factors into kq_scale; 1 ulp off 1/sqrt(d) is the plain case and must not touch the bits
    const float factor = ckv.layers[ikv].scale*std::sqrt((float) d);
    const float scale  = std::fabs(factor - 1.0f) < 1e-6f ? 1.0f : factor;

    for (int64_t h = 0; h < n_head; ++h) {
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t c = 0; c < d; ++c) {
                q[(h*n + i)*d + c] = scale*data[rows[i]*ring->ne[0] + h*d + c];
            }
        }
    }
}
