// the C API that writes keys and values: what a policy has made of the rows that it keeps

#include "ckv-api.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

static std::string ckv_check_rows(const int32_t * rows, int32_t n_rows, int32_t n_tokens) {
    for (int32_t i = 0; i < n_rows; ++i) {
        if (rows[i] < 0 || rows[i] >= n_tokens || (i > 0 && rows[i] <= rows[i - 1])) {
            return "row " + std::to_string(rows[i]) + ": rows must ascend within 0.." + std::to_string(n_tokens - 1);
        }
    }
    return "";
}

// null: only tables that belong to a model's weights could quantise to this type
static bool ckv_can_encode(const ggml_tensor & t) {
    return t.type == GGML_TYPE_F32 || ggml_get_type_traits(t.type)->from_float_ref;
}

// a value that attention could not live with; f16 ends at 65504
static bool ckv_is_finite(const ggml_tensor & t, const float * src, size_t n_rows) {
    const float most = t.type == GGML_TYPE_F16 ? 65504.0f : INFINITY;

    return std::all_of(src, src + n_rows*t.ne[0], [=](float x) { return std::isfinite(x) && std::fabs(x) <= most; });
}

// one of src's rows as the cache stores it
static void ckv_encode(const ggml_tensor & t, const std::vector<float> & row, uint8_t * dst) {
    if (t.type == GGML_TYPE_F32) {
        memcpy(dst, row.data(), t.nb[1]);
    } else {
        ggml_get_type_traits(t.type)->from_float_ref(row.data(), dst, t.ne[0]);
    }
}

// src: (n_head_kv, n, head_dim); neighbours cross to the device together
static void ckv_write_rows(ggml_tensor * t, const std::vector<int32_t> & rows, int64_t n_head_kv, const float * src) {
    const int64_t d = t->ne[0]/n_head_kv;

    std::vector<uint8_t> bytes;
    std::vector<float>   row(t->ne[0]);

    for (size_t i = 0; i < rows.size();) {
        const int32_t first = rows[i];
        const size_t  n     = ckv_run_length(rows, i);

        bytes.resize(n*t->nb[1]);

        for (size_t j = 0; j < n; ++j, ++i) {
            for (int64_t g = 0; g < n_head_kv; ++g) {
                std::copy_n(src + (g*rows.size() + i)*d, d, row.begin() + g*d);
            }
            ckv_encode(*t, row, bytes.data() + j*t->nb[1]);
        }
        ggml_backend_tensor_set(t, bytes.data(), first*t->nb[1], bytes.size());
    }
}

bool llama_ckv::is_shared(llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);

    const auto shared = [this](uint32_t cell) { return cells().seq_count(cell) > 1; };
    const auto own    = tail_cells(seq_id);

    return (b >= 0 && blocks[b].seqs.count() > 1) || std::any_of(own.begin(), own.end(), shared);
}

int32_t llama_ckv_write_kv(llama_context * ctx, llama_seq_id seq_id, int32_t il, const int32_t * rows, int32_t n_rows, const float * k, const float * v) {
    llama_ckv * ckv = nullptr;
    int32_t     ikv = -1;
    if (const int32_t status = ckv_get_layer(ctx, seq_id, il, &ckv, &ikv)) {
        return status;
    }
    if (n_rows < 0 || (n_rows > 0 && !rows)) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "rows is NULL or n_rows negative");
    }

    ckv->flush();

    const std::string why = ckv_check_rows(rows, n_rows, ckv->rows(ikv, seq_id).size());
    if (!why.empty()) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + ", " + why);
    }
    for (const auto & [t, src] : { std::make_pair(ckv->tensor_k(ikv), k), std::make_pair(ckv->tensor_v(ikv), v) }) {
        if (src && !ckv_can_encode(*t)) {
            return ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, std::string("rows of a ") + ggml_type_name(t->type) + " cache cannot be written: use another type_k and type_v");
        }
        if (src && !ckv_is_finite(*t, src, n_rows)) {
            return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + ": a value is not finite as " + ggml_type_name(t->type));
        }
    }
    if (n_rows == 0) {
        return LLAMA_CKV_OK;
    }
    if (ckv->is_shared(seq_id) && !ckv->unshare(seq_id, {})) {
        return ckv_fail(LLAMA_CKV_ERR_MEMORY, ckv->n_used() > 0 ? "no memory for a copy of the rows that a fork shares; the cache is unchanged" :
                "moving rows failed; the cache is empty, decode the prompt again");
    }

    std::vector<int32_t> own = ckv->rows(ikv, seq_id);
    std::transform(rows, rows + n_rows, own.begin(), [all = own](int32_t i) { return all[i]; });
    own.resize(n_rows);

    if (k) {
        ckv_write_rows(ckv->tensor_k(ikv), own, ckv->n_head_kv(ikv), k);
    }
    if (v) {
        ckv_write_rows(ckv->tensor_v(ikv), own, ckv->n_head_kv(ikv), v);
    }
    return LLAMA_CKV_OK;
}
