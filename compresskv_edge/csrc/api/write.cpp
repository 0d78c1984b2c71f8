// what a policy has made of the rows that it keeps

#include "api/api.h"
#include "cache/blocks.h"
#include "cache/sequences.h"
#include "cache/values.h"

static void ckv_check_rows(const int32_t * rows, int32_t n_rows, int32_t n_tokens, const std::string & layer) {
    for (int32_t i = 0; i < n_rows; ++i) {
        if (rows[i] < 0 || rows[i] >= n_tokens || (i > 0 && rows[i] <= rows[i - 1])) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, layer + ", row " + std::to_string(rows[i]) + ": rows must ascend within 0.." + std::to_string(n_tokens - 1));
        }
    }
}

// src may be null: that half stays
static void ckv_check_values(const ggml_tensor & t, const float * src, int32_t n_rows, const std::string & layer) {
    if (src && !ckv_can_encode(t)) {
        throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, std::string("rows of a ") + ggml_type_name(t.type) + " cache cannot be written: use another type_k and type_v");
    }
    if (src && !ckv_is_finite(t, src, n_rows)) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, layer + ": a value is not finite as " + ggml_type_name(t.type));
    }
}

static void ckv_write(llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, const int32_t * rows, int32_t n_rows, const float * k, const float * v) {
    if (ckv_is_shared(ckv, seq_id) && !ckv_unshare(ckv, seq_id, {})) {
        ckv_throw_moved(ckv, "no memory for a copy of the rows that a fork shares; the cache is unchanged");
    }

    const auto all = ckv.rows(ikv, seq_id);

    std::vector<int32_t> own;
    for (int32_t i = 0; i < n_rows; ++i) {
        own.push_back(all[rows[i]]);
    }
    const auto encode = [&](const ggml_tensor * t, const float * src) {
        return src ? ckv_encode_rows(t, own.size(), ckv.up.n_head_kv(ikv), src) : std::vector<uint8_t>();
    };
    const auto bytes_k = encode(ckv.up.k(ikv), k);
    const auto bytes_v = encode(ckv.up.v(ikv), v);

    if (k) {
        ckv_write_rows(ckv.up.k(ikv), own, bytes_k);
    }
    if (v) {
        ckv_write_rows(ckv.up.v(ikv), own, bytes_v);
    }
}

int32_t llama_ckv_write_kv(llama_context * ctx, llama_seq_id seq_id, int32_t il, const int32_t * rows, int32_t n_rows, const float * k, const float * v) {
    return ckv_guard([=] {
        llama_ckv &   ckv = ckv_get_seq(ctx, seq_id);
        const int32_t ikv = ckv_get_ikv(ckv, il);

        ckv_check_argument(n_rows == 0 || (n_rows > 0 && rows), "rows is NULL or n_rows negative");

        ckv.up.flush();

        const std::string layer = "layer " + std::to_string(il);

        ckv_check_rows(rows, n_rows, (int32_t) ckv.rows(ikv, seq_id).size(), layer);
        ckv_check_values(*ckv.up.k(ikv), k, n_rows, layer);
        ckv_check_values(*ckv.up.v(ikv), v, n_rows, layer);

        if (n_rows > 0) {
            ckv_write(ckv, seq_id, ikv, rows, n_rows, k, v);
        }
        return LLAMA_CKV_OK;
    });
}
