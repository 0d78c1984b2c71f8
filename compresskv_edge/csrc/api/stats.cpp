// sizes and counts

#include "api/api.h"

#include "llama-ext.h"

// a context without a profile: what there is, is what the stock cache holds
static llama_ckv_stats ckv_stock_stats(llama_context * ctx) {
    llama_ckv_stats res = {};

    res.n_tokens_seen  = ckv_memory_end(ctx, 0);
    res.kv_bytes       = (int64_t) ckv_memory_bytes(ctx);
    res.kv_bytes_peak  = res.kv_bytes;
    res.kv_bytes_stock = res.kv_bytes;

    return res;
}

static llama_ckv_stats ckv_stats_of(const llama_ckv & ckv, size_t swa_bytes) {
    llama_ckv_stats res = {};

    res.n_tokens_seen  = ckv.n_seen(0);
    res.n_tail_used    = (int32_t) ckv.up.n_used();
    res.n_tail         = (int32_t) ckv.up.n_tail();
    res.n_frozen       = ckv.n_frozen(0);
    res.kv_bytes       = (int64_t) (ckv.kv_bytes() + swa_bytes);
    res.kv_bytes_peak  = (int64_t) (ckv.bytes_peak + swa_bytes);
    res.kv_bytes_stock = (int64_t) (ckv.up.row_bytes()*ckv.n_ctx + swa_bytes);
    res.window_bytes   = (int64_t) ckv.window_bytes();
    res.n_evictions    = ckv.n_evictions;
    res.eviction_ms    = ckv.eviction_ms;

    return res;
}

int32_t llama_ckv_get_stats(llama_context * ctx, llama_ckv_stats * stats) {
    return ckv_guard([=] {
        ckv_check_argument(ctx && stats, "ctx or stats is NULL");

        const llama_ckv * ckv = ckv_of(ctx);

        *stats = ckv ? ckv_stats_of(*ckv, ckv_swa_of(ctx).bytes()) : ckv_stock_stats(ctx);

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_get_seq_stats(llama_context * ctx, llama_seq_id seq_id, llama_ckv_seq_stats * stats) {
    return ckv_guard([=] {
        const llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        ckv_check_argument(stats, "stats is NULL");

        const int32_t b = ckv.prefix.block_of(seq_id);

        stats->n_tokens_seen = ckv.n_seen(seq_id);
        stats->n_tail_used   = (int32_t) ckv.up.n_used(seq_id);
        stats->n_frozen      = ckv.n_frozen(seq_id);
        stats->n_rebased     = ckv.seqs[seq_id].numbering.n_rebased;
        stats->n_sharing     = b < 0 ? 0 : (int32_t) ckv.prefix.blocks[b].seqs.count();
        stats->n_queries     = (int32_t) ckv.window_rows(seq_id).size();

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_get_memory(llama_context * ctx, llama_ckv_memory * memory) {
    return ckv_guard([=] {
        ckv_check_argument(ctx && memory, "ctx or memory is NULL");

        *memory = {};
        for (const auto & [_, bytes] : llama_get_memory_breakdown(ctx)) {
            memory->model_bytes   += bytes.model;
            memory->context_bytes += bytes.context;
            memory->compute_bytes += bytes.compute;
        }
        return LLAMA_CKV_OK;
    });
}
