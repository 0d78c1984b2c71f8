// the C API that changes a context: arguments are checked here, the work is done in ckv-store.cpp and ckv-score.cpp

#include "ckv-api.h"
#include "ckv-cache.h"
#include "ckv-select.h"

#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-model.h"

#include <algorithm>
#include <numeric>

static thread_local std::string ckv_error;

int32_t ckv_fail(enum llama_ckv_status status, const std::string & sentence) {
    ckv_error = sentence;
    return status;
}

const char * llama_ckv_last_error(void) {
    return ckv_error.c_str();
}

const char * llama_ckv_version(void) {
    return CKV_VERSION " llama.cpp " CKV_UPSTREAM_VERSION " " CKV_UPSTREAM_COMMIT " header " CKV_HEADER_SHA256;
}

llama_kv_cache * ckv_swa(llama_context * ctx) {
    auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(ctx->get_memory());
    return iswa ? iswa->get_swa() : nullptr;
}

int32_t ckv_get(llama_context * ctx, llama_ckv ** res) {
    if (!ctx) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "ctx is NULL");
    }

    auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(ctx->get_memory());
    auto * kv   = iswa ? iswa->get_base() : dynamic_cast<llama_kv_cache *>(ctx->get_memory());

    if (!kv || !kv->ckv) {
        return ckv_fail(LLAMA_CKV_ERR_STATE, "the context has no compressed KV cache: attach a profile to the model before creating it");
    }

    *res = kv->ckv.get();
    (*res)->lctx = ctx;

    return LLAMA_CKV_OK;
}

int32_t ckv_get_seq(llama_context * ctx, llama_seq_id seq_id, llama_ckv ** res) {
    if (const int32_t status = ckv_get(ctx, res)) {
        return status;
    }
    if (seq_id < 0 || seq_id >= (llama_seq_id) (*res)->seqs.size()) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "sequence " + std::to_string(seq_id) + " of a context with n_seq_max = " + std::to_string((*res)->seqs.size()));
    }
    return LLAMA_CKV_OK;
}

int32_t ckv_get_layer(llama_context * ctx, llama_seq_id seq_id, int32_t il, llama_ckv ** res, int32_t * ikv) {
    if (const int32_t status = ckv_get_seq(ctx, seq_id, res)) {
        return status;
    }

    *ikv = (*res)->cache_layer(il);
    if (*ikv < 0) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + " does not exist or is not evictable");
    }

    return LLAMA_CKV_OK;
}

//
// compression
//

int32_t llama_ckv_prompt_begin(llama_context * ctx, llama_seq_id seq_id, int32_t n_tokens) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }
    if (n_tokens < 0 || n_tokens > (int32_t) ckv->n_ctx) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "a prompt of " + std::to_string(n_tokens) + " tokens does not fit n_ctx = " + std::to_string(ckv->n_ctx));
    }
    if (!ckv->prompt_begin(n_tokens)) {
        return ckv_fail(LLAMA_CKV_ERR_MEMORY, "no memory for the KV cache of " + std::to_string(n_tokens) + " more tokens: use a smaller n_ctx or a quantised type_k and type_v");
    }
    return LLAMA_CKV_OK;
}

static std::string ckv_check_budgets(const llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets) {
    const auto & protect = ckv.seqs[seq_id].protect;

    for (size_t i = 0; i < ckv.layers.size(); ++i) {
        const int32_t il = ckv.model_layer(i);

        if (budgets[il] < (int32_t) ckv.settings.window) {
            return "budget of layer " + std::to_string(il) + " is " + std::to_string(budgets[il]) + " tokens, less than the window of " + std::to_string(ckv.settings.window);
        }
        if (budgets[il] < (int32_t) (ckv.settings.window + protect.size())) {
            return "budget of layer " + std::to_string(il) + " is " + std::to_string(budgets[il]) + " tokens, less than the " + std::to_string(protect.size()) +
                   " protected tokens and the window of " + std::to_string(ckv.settings.window);
        }
    }
    return "";
}

// the tail shrinks to the window, so that at least that must be in it
static int32_t ckv_check_window(const llama_ckv & ckv, llama_seq_id seq_id, int32_t n_guide = 0) {
    const int32_t n_left = (int32_t) ckv.n_used(seq_id) - n_guide;

    if (n_left < (int32_t) ckv.settings.window) {
        return ckv_fail(LLAMA_CKV_ERR_STATE, std::to_string(n_left) + " tokens since the last compression, less than the window of " + std::to_string(ckv.settings.window));
    }
    return LLAMA_CKV_OK;
}

static int32_t ckv_gather(llama_ckv & ckv, llama_seq_id seq_id, const std::vector<ckv_kept> & kept, int64_t t_start_us) {
    if (!ckv.gather(seq_id, kept)) {
        return ckv_fail(LLAMA_CKV_ERR_MEMORY, ckv.n_used() > 0 ? "no memory for the compressed KV cache; the full one is unchanged" :
                "moving the kept rows failed; the cache is empty, decode the prompt again");
    }

    ckv.n_evictions++;
    ckv.eviction_ms += (ggml_time_us() - t_start_us)/1000.0;

    return LLAMA_CKV_OK;
}

static bool ckv_within_budgets(const llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets) {
    for (size_t i = 0; i < ckv.layers.size(); ++i) {
        if ((int32_t) (ckv.n_prefix(i, seq_id) + ckv.n_used(seq_id)) > budgets[ckv.model_layer(i)]) {
            return false;
        }
    }
    return true;
}

// the tokens that a layer keeps of those before the guide; false if the scores could not be computed
static bool ckv_choose(llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, int32_t budget, int32_t n_guide, ckv_kept & kept) {
    const int32_t n_tokens = ckv.n_prefix(ikv, seq_id) + ckv.n_used(seq_id) - n_guide;

    if (n_tokens <= budget) {
        kept.resize(n_tokens);
        std::iota(kept.begin(), kept.end(), 0);
        return true;
    }

    std::vector<std::vector<float>> scores;
    if (!ckv.score(ikv, seq_id, scores)) {
        return false;
    }

    std::vector<std::vector<double>> exact;
    for (const auto & x : scores) {
        exact.emplace_back(x.begin(), x.begin() + n_tokens);
    }
    kept = ckv_select(exact, ckv.settings.window, budget, ckv.settings.kernel, ckv.settings.pooling, ckv.pinned(ikv, seq_id));

    return true;
}

static int32_t ckv_choose_all(llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide, std::vector<ckv_kept> & kept) {
    if (const int32_t status = ckv_check_window(ckv, seq_id, n_guide)) {
        return status;
    }

    ckv.flush();
    kept.resize(ckv.layers.size());

    for (size_t i = 0; i < kept.size(); ++i) {
        if (!ckv_choose(ckv, seq_id, i, budgets[ckv.model_layer(i)], n_guide, kept[i])) {
            return ckv_fail(LLAMA_CKV_ERR_COMPUTE, "scoring layer " + std::to_string(ckv.model_layer(i)) + " failed; the cache is unchanged");
        }
    }
    return LLAMA_CKV_OK;
}

static int32_t ckv_compress(llama_ckv & ckv, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide = 0) {
    const int64_t t_start_us = ggml_time_us();

    std::vector<ckv_kept> kept;
    if (const int32_t status = ckv_choose_all(ckv, seq_id, budgets, n_guide, kept)) {
        return status;
    }

    if (n_guide > 0) {
        auto * memory = ckv.lctx->get_memory();
        if (!memory->seq_rm(seq_id, memory->seq_pos_max(seq_id) + 1 - n_guide, -1)) {
            return ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, "a question cannot be taken out of the sliding-window layers again; the cache is unchanged");
        }
    }

    return ckv_gather(ckv, seq_id, kept, t_start_us);
}

static int32_t ckv_prepare(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, llama_ckv ** ckv) {
    if (const int32_t status = ckv_get_seq(ctx, seq_id, ckv)) {
        return status;
    }
    if (!budgets) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "budgets is NULL");
    }

    const std::string why = ckv_check_budgets(**ckv, seq_id, budgets);

    return why.empty() ? LLAMA_CKV_OK : ckv_fail(LLAMA_CKV_ERR_ARGUMENT, why);
}

int32_t llama_ckv_prompt_end(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_prepare(ctx, seq_id, budgets, &ckv)) {
        return status;
    }
    return ckv_within_budgets(*ckv, seq_id, budgets) ? LLAMA_CKV_OK : ckv_compress(*ckv, seq_id, budgets);
}

int32_t llama_ckv_compress(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_prepare(ctx, seq_id, budgets, &ckv)) {
        return status;
    }
    if (ckv->n_used(seq_id) < ckv->settings.window && ckv_within_budgets(*ckv, seq_id, budgets)) {
        return LLAMA_CKV_OK; // nothing but the window: nothing to freeze
    }
    return ckv_compress(*ckv, seq_id, budgets);
}

int32_t llama_ckv_compress_guided(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_prepare(ctx, seq_id, budgets, &ckv)) {
        return status;
    }
    if (n_guide < 1) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "n_guide is " + std::to_string(n_guide) + ", not positive");
    }
    return ckv_compress(*ckv, seq_id, budgets, n_guide);
}

int32_t llama_ckv_choose(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide, int32_t * kept, int32_t * kept_len) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_prepare(ctx, seq_id, budgets, &ckv)) {
        return status;
    }
    if (!kept || !kept_len || n_guide < 0) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "kept or kept_len is NULL, or n_guide negative");
    }

    std::vector<ckv_kept> res;
    if (const int32_t status = ckv_choose_all(*ckv, seq_id, budgets, n_guide, res)) {
        return status;
    }
    for (int32_t il = 0; il < (int32_t) ctx->get_model().hparams.n_layer(); ++il) {
        const int32_t ikv = ckv->cache_layer(il);

        kept_len[il] = ikv < 0 ? 0 : res[ikv].size();
        kept         = ikv < 0 ? kept : std::copy(res[ikv].begin(), res[ikv].end(), kept);
    }
    return LLAMA_CKV_OK;
}

int32_t llama_ckv_reserve(llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_prepare(ctx, seq_id, budgets, &ckv)) {
        return status;
    }

    ckv->flush();
    ckv->shrink_tail();

    std::vector<uint32_t> n_prefix;
    for (size_t i = 0; i < ckv->layers.size(); ++i) {
        n_prefix.push_back(budgets[ckv->model_layer(i)] - ckv->settings.window);
    }

    return ckv->reserve_rows(seq_id, n_prefix) ? LLAMA_CKV_OK : ckv_fail(LLAMA_CKV_ERR_MEMORY, "no memory for a KV cache of these budgets: use a smaller budget or a quantised type_k and type_v");
}

int32_t llama_ckv_protect(llama_context * ctx, llama_seq_id seq_id, const llama_pos * positions, int32_t n_positions) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }
    if (n_positions < 0 || (n_positions > 0 && !positions)) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "positions is NULL or n_positions negative");
    }

    auto & protect = ckv->seqs[seq_id].protect;

    protect.assign(positions, positions + n_positions);
    std::sort(protect.begin(), protect.end());
    protect.erase(std::unique(protect.begin(), protect.end()), protect.end());

    return LLAMA_CKV_OK;
}

int32_t llama_ckv_keep_queries(llama_context * ctx, int32_t n_tokens) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get(ctx, &ckv)) {
        return status;
    }
    if (n_tokens < 0 || n_tokens > (int32_t) ckv->n_ctx) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "n_tokens is " + std::to_string(n_tokens) + ", not in 0.." + std::to_string(ckv->n_ctx));
    }
    if (ckv->several()) {
        return ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, "more queries than the window's are kept of one sequence only: create the context with n_seq_max = 1");
    }

    if (n_tokens == (int32_t) ckv->long_pos.size()) {
        return LLAMA_CKV_OK;
    }

    ckv->flush();

    return ckv->keep_queries(n_tokens) ? LLAMA_CKV_OK : ckv_fail(LLAMA_CKV_ERR_MEMORY, "no memory for the queries of " + std::to_string(n_tokens) + " tokens");
}

static std::string ckv_check_kept(const llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, const int32_t * kept, int32_t n) {
    const std::string layer = "layer " + std::to_string(ckv.model_layer(ikv));

    const int32_t n_tokens = ckv.n_prefix(ikv, seq_id) + ckv.n_used(seq_id);
    const int32_t window   = ckv.settings.window;

    if (n < window || n > n_tokens) {
        return layer + " keeps " + std::to_string(n) + " tokens, not between the window of " + std::to_string(window) + " and the " + std::to_string(n_tokens) + " that it holds";
    }
    for (int32_t i = 0; i < n; ++i) {
        if (kept[i] < 0 || kept[i] >= n_tokens || (i > 0 && kept[i] <= kept[i - 1])) {
            return layer + ": kept indices must ascend within 0.." + std::to_string(n_tokens - 1);
        }
    }
    if (kept[n - window] != n_tokens - window) {
        return layer + " does not keep its last " + std::to_string(window) + " tokens";
    }

    return "";
}

int32_t llama_ckv_keep(llama_context * ctx, llama_seq_id seq_id, const int32_t * kept, const int32_t * kept_len) {
    const int64_t t_start_us = ggml_time_us();

    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }
    if (!kept || !kept_len) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "kept or kept_len is NULL");
    }
    if (const int32_t status = ckv_check_window(*ckv, seq_id)) {
        return status;
    }

    std::vector<ckv_kept> rows(ckv->layers.size());

    for (int32_t il = 0; il < (int32_t) ctx->get_model().hparams.n_layer(); ++il) {
        const int32_t ikv = ckv->cache_layer(il);
        const int32_t n   = std::max(kept_len[il], 0);

        if (ikv >= 0) {
            const std::string why = ckv_check_kept(*ckv, seq_id, ikv, kept, n);
            if (!why.empty()) {
                return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, why);
            }
            rows[ikv].assign(kept, kept + n);
        }
        kept += n;
    }

    ckv->flush();

    return ckv_gather(*ckv, seq_id, rows, t_start_us);
}
