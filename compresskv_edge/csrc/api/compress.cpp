// compressions: the engine's own choice, a guided one, and one made elsewhere

#include "api/api.h"
#include "cache/blocks.h"
#include "cache/choose.h"
#include "cache/tail.h"
#include "upstream/models.h"

#include <algorithm>

static void ckv_check_budgets(const llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets) {
    ckv_check_argument(budgets, "budgets is NULL");

    const int32_t n_protect = (int32_t) ckv.seqs[seq_id].protect.size();
    const int32_t window    = (int32_t) ckv.settings.window;

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        const int32_t     il   = ckv.up.model_layer(i);
        const std::string what = "budget of layer " + std::to_string(il) + " is " + std::to_string(budgets[il]) + " tokens, less than ";

        if (budgets[il] < window) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, what + "the window of " + std::to_string(window));
        }
        if (budgets[il] < window + n_protect) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, what + "the " + std::to_string(n_protect) + " protected tokens and the window of " + std::to_string(window));
        }
    }
}

static llama_ckv & ckv_get_for(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    llama_ckv & res = ckv_get_seq(ctx, seq_id);
    ckv_check_budgets(res, seq_id, budgets);
    return res;
}

// the tail shrinks to the window, so that at least that must be in it
static void ckv_check_window(const llama_ckv & ckv, llama_seq_id seq_id, int32_t n_guide) {
    const int32_t n_left = (int32_t) ckv.up.n_used(seq_id) - n_guide;

    if (n_left < (int32_t) ckv.settings.window) {
        throw ckv_error(LLAMA_CKV_ERR_STATE, std::to_string(n_left) + " tokens since the last compression, less than the window of " + std::to_string(ckv.settings.window));
    }
}

static bool ckv_within_budgets(const llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide) {
    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        if ((int32_t) (ckv.prefix.n_rows(i, seq_id) + ckv.up.n_used(seq_id)) - n_guide > budgets[ckv.up.model_layer(i)]) {
            return false;
        }
    }
    return true;
}

// scores without the whole window would be another method's; removed tokens have taken its queries along
static void ckv_check_queries(const llama_ckv & ckv, llama_seq_id seq_id) {
    const std::string window  = std::to_string(ckv.settings.window);
    const size_t      n_known = ckv.window_rows(seq_id).size();

    if (n_known < ckv.settings.window) {
        throw ckv_error(LLAMA_CKV_ERR_STATE, "the queries of only " + std::to_string(n_known) + " of the last " + window + " tokens of sequence " + std::to_string(seq_id) +
                " are known, since tokens after them were removed: remove the last " + window + " tokens and decode them again");
    }
}

// (n_layers of the cache,)
static std::vector<ckv_kept> ckv_choose_all(llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide) {
    ckv_check_window(ckv, seq_id, n_guide);
    ckv.up.flush();

    if (!ckv_within_budgets(ckv, seq_id, budgets, n_guide)) {
        ckv_check_queries(ckv, seq_id);
    }

    std::vector<ckv_kept> res(ckv.layers.size());

    for (int32_t i = 0; i < (int32_t) res.size(); ++i) {
        const int32_t il = ckv.up.model_layer(i);

        if (!ckv_choose(ckv, seq_id, i, budgets[il], n_guide, res[i])) {
            throw ckv_error(LLAMA_CKV_ERR_COMPUTE, "scoring layer " + std::to_string(il) + " failed; the cache is unchanged");
        }
    }
    return res;
}

static void ckv_gather_counted(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<ckv_kept> & kept, int32_t n_guide, int64_t t_start_us) {
    if (!ckv_gather(ckv, seq_id, kept, n_guide)) {
        ckv_throw_moved(ckv, "no memory for the compressed KV cache; the full one is unchanged");
    }

    ckv.n_evictions++;
    ckv.eviction_ms += (double) (ggml_time_us() - t_start_us)/1000.0;
}

static int32_t ckv_compress(llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide) {
    const int64_t t_start_us = ggml_time_us();

    const auto      kept  = ckv_choose_all(ckv, seq_id, budgets, n_guide);
    const llama_pos guide = ckv.up.pos_max(seq_id) + 1 - n_guide;
    const ckv_swa   swa   = ckv_swa_of(ckv.up.lctx);

    if (n_guide > 0 && swa.kv && !swa.can_rm(seq_id, guide)) {
        throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, "a question cannot be taken out of the sliding-window layers again; the cache is unchanged");
    }
    ckv_gather_counted(ckv, seq_id, kept, n_guide, t_start_us);
    if (n_guide > 0) {
        ckv_trim_swa(ckv.up.lctx, seq_id, guide);
    }
    return LLAMA_CKV_OK;
}

int32_t llama_ckv_prompt_begin(llama_context * ctx, llama_seq_id seq_id, int32_t n_tokens) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_seq(ctx, seq_id);

        if (n_tokens < 0 || n_tokens > (int32_t) ckv.n_ctx) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "a prompt of " + std::to_string(n_tokens) + " tokens does not fit n_ctx = " + std::to_string(ckv.n_ctx));
        }
        if (!ckv_prompt_begin(ckv, n_tokens)) {
            throw ckv_error(LLAMA_CKV_ERR_MEMORY, "no memory for the KV cache of " + std::to_string(n_tokens) + " more tokens: use a smaller n_ctx or a quantised type_k and type_v");
        }
        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_prompt_end(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_for(ctx, seq_id, budgets);

        return ckv_within_budgets(ckv, seq_id, budgets, 0) ? LLAMA_CKV_OK : ckv_compress(ckv, seq_id, budgets, 0);
    });
}

int32_t llama_ckv_compress(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_for(ctx, seq_id, budgets);

        if (ckv.up.n_used(seq_id) < ckv.settings.window && ckv_within_budgets(ckv, seq_id, budgets, 0)) {
            return (int32_t) LLAMA_CKV_OK; // nothing but the window: nothing to freeze
        }
        return ckv_compress(ckv, seq_id, budgets, 0);
    });
}

int32_t llama_ckv_compress_guided(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_for(ctx, seq_id, budgets);

        if (n_guide < 1) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "n_guide is " + std::to_string(n_guide) + ", not positive");
        }
        return ckv_compress(ckv, seq_id, budgets, n_guide);
    });
}

int32_t llama_ckv_choose(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide, int32_t * kept, int32_t * kept_len) {
    return ckv_guard([=]() mutable {
        llama_ckv & ckv = ckv_get_for(ctx, seq_id, budgets);
        ckv_check_argument(kept && kept_len && n_guide >= 0, "kept or kept_len is NULL, or n_guide negative");

        const auto res = ckv_choose_all(ckv, seq_id, budgets, n_guide);

        for (int32_t il = 0; il < ckv_n_layer(ckv.up.model()); ++il) {
            const int32_t ikv = ckv.up.cache_layer(il);

            kept_len[il] = ikv < 0 ? 0 : (int32_t) res[ikv].size();
            kept         = ikv < 0 ? kept : std::copy(res[ikv].begin(), res[ikv].end(), kept);
        }
        return LLAMA_CKV_OK;
    });
}

static void ckv_check_kept(const llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, const int32_t * kept, int32_t n) {
    const std::string layer = "layer " + std::to_string(ckv.up.model_layer(ikv));

    const int32_t n_tokens = (int32_t) (ckv.prefix.n_rows(ikv, seq_id) + ckv.up.n_used(seq_id));
    const int32_t window   = (int32_t) ckv.settings.window;

    if (n < window || n > n_tokens) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, layer + " keeps " + std::to_string(n) + " tokens, not between the window of " + std::to_string(window) +
                " and the " + std::to_string(n_tokens) + " that it holds");
    }
    for (int32_t i = 0; i < n; ++i) {
        if (kept[i] < 0 || kept[i] >= n_tokens || (i > 0 && kept[i] <= kept[i - 1])) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, layer + ": kept indices must ascend within 0.." + std::to_string(n_tokens - 1));
        }
    }
    if (kept[n - window] != n_tokens - window) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, layer + " does not keep its last " + std::to_string(window) + " tokens");
    }
}

int32_t llama_ckv_keep(llama_context * ctx, llama_seq_id seq_id, const int32_t * kept, const int32_t * kept_len) {
    return ckv_guard([=]() mutable {
        const int64_t t_start_us = ggml_time_us();

        llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        ckv_check_argument(kept && kept_len, "kept or kept_len is NULL");
        ckv_check_window(ckv, seq_id, 0);

        std::vector<ckv_kept> rows(ckv.layers.size());

        for (int32_t il = 0; il < ckv_n_layer(ckv.up.model()); ++il) {
            const int32_t ikv = ckv.up.cache_layer(il);
            const int32_t n   = std::max(kept_len[il], 0);

            if (ikv >= 0) {
                ckv_check_kept(ckv, seq_id, ikv, kept, n);
                rows[ikv].assign(kept, kept + n);
            }
            kept += n;
        }

        ckv.up.flush();
        ckv_gather_counted(ckv, seq_id, rows, 0, t_start_us);

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_reserve(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_for(ctx, seq_id, budgets);

        ckv.up.flush();
        ckv_shrink_tail(ckv);

        std::vector<uint32_t> n_prefix;
        for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
            n_prefix.push_back(budgets[ckv.up.model_layer(i)] - ckv.settings.window);
        }
        if (!ckv_reserve_rows(ckv, seq_id, n_prefix)) {
            throw ckv_error(LLAMA_CKV_ERR_MEMORY, "no memory for a KV cache of these budgets: use a smaller budget or a quantised type_k and type_v");
        }
        return LLAMA_CKV_OK;
    });
}
