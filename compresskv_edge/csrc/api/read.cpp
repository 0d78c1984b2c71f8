// what a sequence holds: positions, scores, queries, keys and values

#include "api/api.h"
#include "cache/values.h"
#include "graph/score.h"
#include "upstream/models.h"

#include <algorithm>

static void ckv_check_layer(const llama_model & model, int32_t il) {
    if (il < 0 || il >= ckv_n_layer(model)) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + " of a model with " + std::to_string(ckv_n_layer(model)));
    }
}

// of a sliding-window layer
static std::vector<llama_pos> ckv_swa_positions(const llama_ckv & ckv, llama_seq_id seq_id) {
    auto res = ckv_swa_of(ckv.up.lctx).positions(seq_id);
    for (auto & pos : res) {
        pos += ckv.seqs[seq_id].numbering.n_rebased;
    }
    return res;
}

int32_t llama_ckv_positions(llama_context * ctx, llama_seq_id seq_id, int32_t il, llama_pos * positions, int32_t n_max) {
    return ckv_guard([=] {
        const llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        ckv_check_layer(ckv.up.model(), il);

        const int32_t ikv = ckv.up.cache_layer(il);
        const auto    res = ikv >= 0 ? ckv.positions(ikv, seq_id) : ckv_swa_positions(ckv, seq_id);

        if (positions) {
            std::copy_n(res.begin(), std::min((int32_t) res.size(), std::max(n_max, 0)), positions);
        }
        return (int32_t) res.size();
    });
}

int32_t llama_ckv_scores(llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t reduce, float * scores) {
    return ckv_guard([=] {
        llama_ckv &   ckv = ckv_get_seq(ctx, seq_id);
        const int32_t ikv = ckv_get_ikv(ckv, il);

        ckv_check_argument(scores && reduce >= LLAMA_CKV_REDUCE_SUM && reduce <= LLAMA_CKV_REDUCE_MAX, "scores is NULL or reduce is none of enum llama_ckv_reduce");

        const size_t n_known = ckv.window_rows(seq_id).size();
        const size_t n_want  = std::min<size_t>(ckv.settings.window, ckv.n_seen(seq_id));

        if (n_want == 0) {
            throw ckv_error(LLAMA_CKV_ERR_STATE, "no query is known: decode tokens first");
        }
        if (n_known < n_want) {
            throw ckv_error(LLAMA_CKV_ERR_STATE, "the queries of only " + std::to_string(n_known) + " of the last " + std::to_string(n_want) + " tokens are known: remove these and decode them again");
        }

        ckv.up.synchronize();

        std::vector<float> res;
        if (!ckv_score(ckv, ikv, seq_id, (enum llama_ckv_reduce) reduce, res)) {
            throw ckv_error(LLAMA_CKV_ERR_COMPUTE, "scoring layer " + std::to_string(il) + " failed; the cache is unchanged");
        }
        std::copy(res.begin(), res.end(), scores);

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_read_queries(llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t n, float * q) {
    return ckv_guard([=] {
        const llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        const int32_t     ikv = ckv_get_ikv(ckv, il);

        const int32_t window  = (int32_t) ckv.settings.window;
        const int32_t n_long  = (int32_t) ckv.long_ring.size();
        const bool    is_long = n > window;

        if (!q || n < 1 || n > (is_long ? n_long : window)) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "q is NULL, or n is " + std::to_string(n) + ": the queries of " + std::to_string(std::max(is_long ? n_long : 0, window)) + " tokens are kept");
        }

        auto rows = is_long ? ckv.long_rows() : ckv.window_rows(seq_id);
        if ((int32_t) rows.size() < n) {
            throw ckv_error(LLAMA_CKV_ERR_STATE, "the queries of " + std::to_string(rows.size()) + " of the last " + std::to_string(n) + " tokens are known: decode more tokens first");
        }
        rows.erase(rows.begin(), rows.end() - n);

        ckv.up.flush();
        ckv_read_ring(ckv, ikv, is_long ? ckv.layers[ikv].q_long : ckv.layers[ikv].q, rows, q);

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_read_kv(llama_context * ctx, llama_seq_id seq_id, int32_t il, float * k, float * v) {
    return ckv_guard([=] {
        const llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        const int32_t     ikv = ckv_get_ikv(ckv, il);

        ckv.up.flush();

        const auto rows = ckv.rows(ikv, seq_id);
        if (k) {
            ckv_read_rows(ckv.up.k(ikv), rows, ckv.up.n_head_kv(ikv), k);
        }
        if (v) {
            ckv_read_rows(ckv.up.v(ikv), rows, ckv.up.n_head_kv(ikv), v);
        }
        return LLAMA_CKV_OK;
    });
}
