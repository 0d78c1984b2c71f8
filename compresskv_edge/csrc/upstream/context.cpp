// llama_context, and the caches behind it

#include "upstream/access.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <cmath>
#include <exception>

void ckv_access::synchronize() const {
    if (lctx) {
        lctx->synchronize();
    }
}

void ckv_access::flush() const {
    if (lctx) {
        lctx->synchronize();
        lctx->memory_update(false);
    }
}

void ckv_access::reserve_later() const {
    lctx->sched_need_reserve = true;
}

void ckv_access::reserve_compute() const {
    if (!lctx) {
        return; // a state restored into a new context: nothing ran yet
    }

    lctx->sched_need_reserve = true;
    try {
        lctx->sched_reserve();
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        lctx->sched_need_reserve = true; // the next decode tries again, and reports it if it fails
    }
}

bool ckv_access::alloc_graph(ggml_cgraph * gf) const {
    auto * sched = lctx->get_sched();

    ggml_backend_sched_reset(sched);

    return ggml_backend_sched_alloc_graph(sched, gf);
}

bool ckv_access::compute_graph(ggml_cgraph * gf) const {
    const bool ok = lctx->graph_compute(gf, true) == GGML_STATUS_SUCCESS;

    ggml_backend_sched_synchronize(lctx->get_sched());

    return ok;
}

ggml_tensor * ckv_access::build_rope(ggml_context * ctx, ggml_tensor * cur, ggml_tensor * shift, int32_t ikv) const {
    const int32_t il      = model_layer(ikv);
    const auto &  cparams = lctx->get_cparams();

    const float freq_base  = kv.model.get_rope_freq_base (cparams, il);
    const float freq_scale = kv.model.get_rope_freq_scale(cparams, il);

    // ggml scales by 1 + 0.1 log(1/freq_scale) with YaRN
    const float attn_factor = cparams.yarn_ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*std::log(1.0f/freq_scale)) : 1.0f;

    return ggml_rope_ext(ctx, cur, shift, kv.model.get_rope_factors(cparams, il), kv.hparams.n_rot(il), kv.hparams.rope_type,
            cparams.n_ctx_orig_yarn, freq_base, freq_scale, cparams.yarn_ext_factor, attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);
}

ckv_access::no_abort::no_abort(llama_context * ctx) : lctx(ctx) {
    if (lctx) {
        callback = lctx->abort_callback;
        data     = lctx->abort_callback_data;
        lctx->set_abort_callback(nullptr, nullptr);
    }
}

ckv_access::no_abort::~no_abort() {
    if (lctx) {
        lctx->set_abort_callback(callback, data);
    }
}

//
// from a context to its caches
//

llama_ckv * ckv_of(llama_context * lctx) {
    auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(lctx->get_memory());
    auto * kv   = iswa ? iswa->get_base() : dynamic_cast<llama_kv_cache *>(lctx->get_memory());

    return kv ? kv->ckv.get() : nullptr;
}

static llama_kv_cache * ckv_swa_cache(llama_context * lctx) {
    auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(lctx->get_memory());
    return iswa ? iswa->get_swa() : nullptr;
}

ckv_swa ckv_swa_of(llama_context * lctx) {
    return { ckv_swa_cache(lctx) };
}

void ckv_shift_swa(llama_context * lctx, llama_seq_id seq_id, llama_pos shift) {
    if (auto * swa = ckv_swa_cache(lctx)) {
        swa->seq_add(seq_id, 0, -1, -shift);
    }
}

void ckv_trim_swa(llama_context * lctx, llama_seq_id seq_id, llama_pos p0) {
    if (auto * swa = ckv_swa_cache(lctx)) {
        swa->seq_rm(seq_id, p0, -1);
    }
}

size_t ckv_sum_bytes(const llama_memory_i & memory) {
    size_t res = 0;
    for (const auto & [_, size] : memory.memory_breakdown()) {
        res += size;
    }
    return res;
}

size_t ckv_memory_bytes(llama_context * lctx) {
    return lctx->get_memory() ? ckv_sum_bytes(*lctx->get_memory()) : 0;
}

llama_pos ckv_memory_end(llama_context * lctx, llama_seq_id seq_id) {
    return lctx->get_memory() ? lctx->get_memory()->seq_pos_max(seq_id) + 1 : 0;
}

