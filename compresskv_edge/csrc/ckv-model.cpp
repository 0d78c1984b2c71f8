// which models can be compressed, and the profiles attached to them. A profile hangs on the model, not on
// llama_context_params: no struct that bindings mirror gets a field.

#include "ckv-cache.h"

#include "llama-arch.h"
#include "llama-model.h"

#include <map>
#include <mutex>

static std::mutex                                    ckv_mutex;
static std::map<const llama_model *, ckv_settings> & ckv_attached() {
    static std::map<const llama_model *, ckv_settings> table;
    return table;
}

bool ckv_find_settings(const llama_model * model, ckv_settings & settings) {
    std::lock_guard<std::mutex> lock(ckv_mutex);

    const auto it = ckv_attached().find(model);
    if (it == ckv_attached().end()) {
        return false;
    }
    settings = it->second;

    return true;
}

// architectures with a cache of their own, beside llama_kv_cache and llama_kv_cache_iswa
static bool ckv_has_own_cache(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_GLM5_NEXT:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_MINIMAX_M3:
            return true;
        default:
            return false;
    }
}

static const char * ckv_unsupported_kind(const llama_model & model) {
    const auto & hparams = model.hparams;

    if (llm_arch_is_recurrent(model.arch))                   { return "is recurrent: it has no KV cache"; }
    if (llm_arch_is_hybrid(model.arch))                      { return "mixes recurrent layers with attention"; }
    if (llama_model_has_encoder(&model))                     { return "has an encoder"; }
    if (!hparams.causal_attn)                                { return "is an encoder: its attention is not causal"; }
    if (llm_arch_is_diffusion(model.arch))                   { return "is a diffusion model: it keeps no KV cache"; }
    if (hparams.is_mla())                                    { return "uses multi-head latent attention (MLA)"; }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.f) { return "biases attention by distance (ALiBi)"; }
    if (hparams.n_layer_kv_from_start >= 0)                  { return "shares KV caches between layers"; }
    if (ckv_has_own_cache(model.arch))                       { return "has a KV cache of its own kind"; }

    return nullptr;
}

std::string ckv_unsupported(const llama_model * model) {
    const char * kind = ckv_unsupported_kind(*model);
    if (!kind) {
        return "";
    }
    return "architecture '" + model->arch_name() + "' " + kind + ", which cannot be compressed: load it without a profile";
}

//
// C API
//

int32_t llama_ckv_model_supported(const llama_model * model) {
    if (!model) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "model is NULL");
    }

    const std::string why = ckv_unsupported(model);

    return why.empty() ? LLAMA_CKV_OK : ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, why);
}

int32_t llama_ckv_model_layer(const llama_model * model, int32_t il, llama_ckv_layer * layer) {
    if (!model || !layer) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "model or layer is NULL");
    }

    const auto & hparams = model->hparams;

    if (il < 0 || il >= (int32_t) hparams.n_layer()) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + " of a model with " + std::to_string(hparams.n_layer()));
    }

    layer->n_head     = hparams.n_head(il);
    layer->n_head_kv  = hparams.n_head_kv(il);
    layer->head_dim_k = hparams.n_embd_head_k(il);
    layer->head_dim_v = hparams.n_embd_head_v(il);
    layer->evictable  = ckv_unsupported_kind(*model) == nullptr && hparams.has_kv(il) && !hparams.is_swa(il);

    return LLAMA_CKV_OK;
}

static std::string ckv_check_profile(const llama_model & model, const llama_ckv_profile & profile) {
    const int32_t n_layer = model.hparams.n_layer();

    if (profile.n_layer != n_layer) {
        return "profile has " + std::to_string(profile.n_layer) + " layers, the model " + std::to_string(n_layer);
    }
    if (profile.window < 1 || profile.window > 256) {
        return "window is " + std::to_string(profile.window) + ", not in 1..256";
    }
    if (profile.kernel < 1 || profile.kernel % 2 == 0) {
        return "kernel is " + std::to_string(profile.kernel) + ", not odd and positive";
    }
    if (profile.pooling != LLAMA_CKV_POOLING_AVG && profile.pooling != LLAMA_CKV_POOLING_MAX) {
        return "pooling is " + std::to_string(profile.pooling) + ", not one of enum llama_ckv_pooling";
    }
    if (profile.n_tail < 2*profile.window) {
        return "n_tail is " + std::to_string(profile.n_tail) + ", less than two windows";
    }
    if (profile.n_heads < 1 || !profile.heads) {
        return "no heads given";
    }
    for (int32_t i = 0; i < n_layer*profile.n_heads; ++i) {
        const int32_t il = i/profile.n_heads;
        const int32_t h  = profile.heads[i];

        if (h < -1 || h >= (int32_t) model.hparams.n_head(il) || (h == -1 && i % profile.n_heads == 0)) {
            return "layer " + std::to_string(il) + " has no head " + std::to_string(h);
        }
    }

    return "";
}

int32_t llama_ckv_attach(const llama_model * model, const llama_ckv_profile * profile) {
    if (!model || !profile) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "model or profile is NULL");
    }
    if (const int32_t status = llama_ckv_model_supported(model)) {
        return status;
    }

    const std::string why = ckv_check_profile(*model, *profile);
    if (!why.empty()) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, why);
    }

    ckv_settings settings;
    settings.window  = profile->window;
    settings.kernel  = profile->kernel;
    settings.n_tail  = profile->n_tail;
    settings.pooling = (enum llama_ckv_pooling) profile->pooling;

    for (int32_t il = 0; il < profile->n_layer; ++il) {
        settings.heads.emplace_back();
        for (int32_t i = 0; i < profile->n_heads && profile->heads[il*profile->n_heads + i] >= 0; ++i) {
            settings.heads.back().push_back(profile->heads[il*profile->n_heads + i]);
        }
    }

    std::lock_guard<std::mutex> lock(ckv_mutex);
    ckv_attached()[model] = settings;

    return ckv_fail(LLAMA_CKV_OK, ""); // a context that cannot be created next says why, and no earlier sentence remains
}

int32_t llama_ckv_detach(const llama_model * model) {
    std::lock_guard<std::mutex> lock(ckv_mutex);
    ckv_attached().erase(model);

    return LLAMA_CKV_OK;
}
