// the C API that reads a context: sizes, positions, queries, keys and values

#include "ckv-api.h"

#include "llama-context.h"
#include "llama-ext.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

static size_t ckv_memory_bytes(const llama_memory_i & memory) {
    size_t res = 0;
    for (const auto & [_, size] : memory.memory_breakdown()) {
        res += size;
    }
    return res;
}

// a context without a profile: what there is, is what the stock cache holds
static llama_ckv_stats ckv_stock_stats(llama_context * ctx) {
    llama_ckv_stats res = {};

    if (const auto * memory = ctx->get_memory()) {
        res.n_tokens_seen  = (int64_t) memory->seq_pos_max(0) + 1;
        res.kv_bytes       = ckv_memory_bytes(*memory);
        res.kv_bytes_peak  = res.kv_bytes;
        res.kv_bytes_stock = res.kv_bytes;
    }

    return res;
}

static int64_t ckv_tokens_seen(const llama_ckv & ckv, llama_seq_id seq_id) {
    return ckv.seqs[seq_id].numbering.n_rebased + std::max<int64_t>(ckv.pos_frozen(seq_id), (int64_t) ckv.cells().seq_pos_max(seq_id) + 1);
}

int32_t llama_ckv_get_stats(llama_context * ctx, llama_ckv_stats * stats) {
    if (!ctx || !stats) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "ctx or stats is NULL");
    }

    llama_ckv * ckv = nullptr;
    if (ckv_get(ctx, &ckv) != LLAMA_CKV_OK) {
        *stats = ckv_stock_stats(ctx);
        return LLAMA_CKV_OK;
    }

    const size_t swa_bytes = ckv_swa(ctx) ? ckv_memory_bytes(*ckv_swa(ctx)) : 0;

    stats->n_tokens_seen  = ckv_tokens_seen(*ckv, 0);
    stats->n_tail_used    = ckv->n_used();
    stats->n_tail         = ckv->n_tail();
    stats->n_frozen       = ckv->n_frozen(0);
    stats->kv_bytes       = ckv->kv_bytes()       + swa_bytes;
    stats->kv_bytes_peak  = ckv->bytes_peak       + swa_bytes;
    stats->kv_bytes_stock = ckv->kv_bytes_stock() + swa_bytes;
    stats->window_bytes   = ckv->window_bytes();
    stats->n_evictions    = ckv->n_evictions;
    stats->eviction_ms    = ckv->eviction_ms;

    return LLAMA_CKV_OK;
}

int32_t llama_ckv_get_seq_stats(llama_context * ctx, llama_seq_id seq_id, llama_ckv_seq_stats * stats) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }
    if (!stats) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "stats is NULL");
    }

    const int32_t b = ckv->block_of(seq_id);

    stats->n_tokens_seen = ckv_tokens_seen(*ckv, seq_id);
    stats->n_tail_used   = ckv->n_used(seq_id);
    stats->n_frozen      = ckv->n_frozen(seq_id);
    stats->n_rebased     = ckv->seqs[seq_id].numbering.n_rebased;
    stats->n_sharing     = b < 0 ? 0 : ckv->blocks[b].seqs.count();

    return LLAMA_CKV_OK;
}

int32_t llama_ckv_get_memory(llama_context * ctx, llama_ckv_memory * memory) {
    if (!ctx || !memory) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "ctx or memory is NULL");
    }

    *memory = {};
    for (const auto & [_, bytes] : llama_get_memory_breakdown(ctx)) {
        memory->model_bytes   += bytes.model;
        memory->context_bytes += bytes.context;
        memory->compute_bytes += bytes.compute;
    }

    return LLAMA_CKV_OK;
}

static std::vector<llama_pos> ckv_swa_positions(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos n_rebased) {
    std::vector<llama_pos> res;
    for (const auto & [pos, cell] : swa.get_cells(seq_id).seq_pos_get(seq_id)) {
        res.push_back(pos + n_rebased);
    }
    return res;
}

int32_t llama_ckv_positions(llama_context * ctx, llama_seq_id seq_id, int32_t il, llama_pos * positions, int32_t n_max) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }

    llama_ckv_layer layer;
    if (const int32_t status = llama_ckv_model_layer(&ctx->get_model(), il, &layer)) {
        return status;
    }

    const int32_t ikv = ckv->cache_layer(il);
    const auto    res = ikv >= 0 ? ckv->positions(ikv, seq_id) : ckv_swa(ctx) ? ckv_swa_positions(*ckv_swa(ctx), seq_id, ckv->seqs[seq_id].numbering.n_rebased) : std::vector<llama_pos>();

    if (positions) {
        std::copy_n(res.begin(), std::min<int32_t>(res.size(), std::max(n_max, 0)), positions);
    }

    return res.size();
}

int32_t llama_ckv_read_queries(llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t n, float * q) {
    llama_ckv * ckv = nullptr;
    int32_t     ikv = -1;
    if (const int32_t status = ckv_get_layer(ctx, seq_id, il, &ckv, &ikv)) {
        return status;
    }

    const bool    is_long = n > (int32_t) ckv->settings.window;
    const int32_t n_max   = is_long ? ckv->long_pos.size() : ckv->settings.window;

    if (!q || n < 1 || n > n_max) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "q is NULL, or n is " + std::to_string(n) + ": the queries of " +
                std::to_string(std::max<int32_t>(n_max, ckv->settings.window)) + " tokens are kept");
    }

    auto rows = is_long ? ckv->long_rows() : ckv->window_rows(seq_id);
    if ((int32_t) rows.size() < n) {
        return ckv_fail(LLAMA_CKV_ERR_STATE, "the queries of " + std::to_string(rows.size()) + " of the last " + std::to_string(n) + " tokens are known: decode more tokens first");
    }
    rows.erase(rows.begin(), rows.end() - n);

    ckv->flush();

    const ggml_tensor * ring = is_long ? ckv->layers[ikv].q_long : ckv->layers[ikv].q; // [head_dim*n_head, rows]

    std::vector<float> data(ggml_nelements(ring));
    ggml_backend_tensor_get(ring, data.data(), 0, ggml_nbytes(ring));

    const int64_t n_head = ckv->n_head(ikv);
    const int64_t d      = ring->ne[0]/n_head;

    // models fold their own factors into kq_scale; 1 ulp off 1/sqrt(d) is the plain case and must not touch the bits
    const float factor = ckv->layers[ikv].scale*std::sqrt((float) d);
    const float scale  = std::fabs(factor - 1.0f) < 1e-6f ? 1.0f : factor;

    for (int64_t h = 0; h < n_head; ++h) {
        for (int32_t i = 0; i < n; ++i) {
            for (int64_t c = 0; c < d; ++c) {
                q[(h*n + i)*d + c] = scale*data[rows[i]*ring->ne[0] + h*d + c];
            }
        }
    }

    return LLAMA_CKV_OK;
}

int32_t llama_ckv_scores(llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t reduce, float * scores) {
    llama_ckv * ckv = nullptr;
    int32_t     ikv = -1;
    if (const int32_t status = ckv_get_layer(ctx, seq_id, il, &ckv, &ikv)) {
        return status;
    }
    if (!scores || reduce < LLAMA_CKV_REDUCE_SUM || reduce > LLAMA_CKV_REDUCE_MAX) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "scores is NULL or reduce is none of enum llama_ckv_reduce");
    }
    if (ckv->window_rows(seq_id).empty()) {
        return ckv_fail(LLAMA_CKV_ERR_STATE, "no query is known: decode tokens first");
    }

    ctx->synchronize();

    std::vector<float> res;
    if (!ckv->score(ikv, seq_id, (enum llama_ckv_reduce) reduce, res)) {
        return ckv_fail(LLAMA_CKV_ERR_COMPUTE, "scoring layer " + std::to_string(il) + " failed; the cache is unchanged");
    }
    std::copy(res.begin(), res.end(), scores);

    return LLAMA_CKV_OK;
}

// (n_head_kv, n, head_dim) of a cache tensor's rows, dequantised; neighbours cross to the host together
static void ckv_read_rows(const ggml_tensor * t, const std::vector<int32_t> & rows, int64_t n_head_kv, float * dst) {
    const int64_t d = t->ne[0]/n_head_kv;

    std::vector<uint8_t> bytes;
    std::vector<float>   row(t->ne[0]);

    for (size_t i = 0; i < rows.size();) {
        const size_t n = ckv_run_length(rows, i);

        bytes.resize(n*t->nb[1]);
        ggml_backend_tensor_get(t, bytes.data(), rows[i]*t->nb[1], bytes.size());

        for (size_t j = 0; j < n; ++j, ++i) {
            if (t->type == GGML_TYPE_F32) {
                memcpy(row.data(), bytes.data() + j*t->nb[1], t->nb[1]);
            } else {
                ggml_get_type_traits(t->type)->to_float(bytes.data() + j*t->nb[1], row.data(), t->ne[0]);
            }
            for (int64_t g = 0; g < n_head_kv; ++g) {
                std::copy_n(row.begin() + g*d, d, dst + (g*rows.size() + i)*d);
            }
        }
    }
}

int32_t llama_ckv_read_kv(llama_context * ctx, llama_seq_id seq_id, int32_t il, float * k, float * v) {
    llama_ckv * ckv = nullptr;
    int32_t     ikv = -1;
    if (const int32_t status = ckv_get_layer(ctx, seq_id, il, &ckv, &ikv)) {
        return status;
    }

    ckv->flush();

    const auto rows = ckv->rows(ikv, seq_id);
    if (k) {
        ckv_read_rows(ckv->tensor_k(ikv), rows, ckv->n_head_kv(ikv), k);
    }
    if (v) {
        ckv_read_rows(ckv->tensor_v(ikv), rows, ckv->n_head_kv(ikv), v);
    }

    return LLAMA_CKV_OK;
}
