#include "upstream/models.h"

#include "llama-arch.h"
#include "llama-model.h"

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

std::string ckv_unsupported(const llama_model & model) {
    const char * kind = ckv_unsupported_kind(model);
    if (!kind) {
        return "";
    }
    return "architecture '" + model.arch_name() + "' " + kind + ", which cannot be compressed: load it without a profile";
}

std::string ckv_cannot_shift(const llama_model & model) {
    if (model.hparams.rope_type == LLAMA_ROPE_TYPE_NONE) {
        return "architecture '" + model.arch_name() + "' has no rotary positions";
    }
    if (model.arch == LLM_ARCH_STEP35 || model.hparams.n_pos_per_embd() > 1) {
        return "architecture '" + model.arch_name() + "' has positions that llama.cpp cannot shift";
    }
    return "";
}

int32_t ckv_n_layer(const llama_model & model) {
    return (int32_t) model.hparams.n_layer();
}

int32_t ckv_n_head(const llama_model & model, int32_t il) {
    return (int32_t) model.hparams.n_head(il);
}

llama_ckv_layer ckv_layer_shape(const llama_model & model, int32_t il) {
    const auto & hparams = model.hparams;

    llama_ckv_layer res;
    res.n_head     = (int32_t) hparams.n_head(il);
    res.n_head_kv  = (int32_t) hparams.n_head_kv(il);
    res.head_dim_k = (int32_t) hparams.n_embd_head_k(il);
    res.head_dim_v = (int32_t) hparams.n_embd_head_v(il);
    res.evictable  = ckv_unsupported_kind(model) == nullptr && hparams.has_kv(il) && !hparams.is_swa(il);

    return res;
}
