// models, and the profiles attached to them

#include "api/api.h"
#include "cache/settings.h"
#include "upstream/models.h"

int32_t llama_ckv_model_supported(const llama_model * model) {
    return ckv_guard([=] {
        ckv_check_argument(model, "model is NULL");

        const std::string why = ckv_unsupported(*model);
        if (!why.empty()) {
            throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, why);
        }
        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_model_layer(const llama_model * model, int32_t il, llama_ckv_layer * layer) {
    return ckv_guard([=] {
        ckv_check_argument(model && layer, "model or layer is NULL");

        if (il < 0 || il >= ckv_n_layer(*model)) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + " of a model with " + std::to_string(ckv_n_layer(*model)));
        }
        *layer = ckv_layer_shape(*model, il);

        return LLAMA_CKV_OK;
    });
}

static std::string ckv_check_heads(const llama_model & model, const llama_ckv_profile & profile) {
    if (profile.n_heads < 1 || !profile.heads) {
        return "no heads given";
    }
    for (int32_t i = 0; i < profile.n_layer*profile.n_heads; ++i) {
        const int32_t il = i/profile.n_heads;
        const int32_t h  = profile.heads[i];

        if (h < -1 || h >= ckv_n_head(model, il) || (h == -1 && i % profile.n_heads == 0)) {
            return "layer " + std::to_string(il) + " has no head " + std::to_string(h);
        }
    }
    return "";
}

static std::string ckv_check_profile(const llama_model & model, const llama_ckv_profile & profile) {
    if (profile.n_layer != ckv_n_layer(model)) {
        return "profile has " + std::to_string(profile.n_layer) + " layers, the model " + std::to_string(ckv_n_layer(model));
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
    return ckv_check_heads(model, profile);
}

static ckv_settings ckv_copy_profile(const llama_ckv_profile & profile) {
    ckv_settings res;
    res.window  = profile.window;
    res.kernel  = profile.kernel;
    res.n_tail  = profile.n_tail;
    res.pooling = (enum ckv_pooling) profile.pooling;

    for (int32_t il = 0; il < profile.n_layer; ++il) {
        res.heads.emplace_back();
        for (int32_t i = 0; i < profile.n_heads && profile.heads[il*profile.n_heads + i] >= 0; ++i) {
            res.heads.back().push_back(profile.heads[il*profile.n_heads + i]);
        }
    }
    return res;
}

int32_t llama_ckv_attach(const llama_model * model, const llama_ckv_profile * profile) {
    return ckv_guard([=] {
        ckv_check_argument(model && profile, "model or profile is NULL");

        const std::string unsupported = ckv_unsupported(*model);
        if (!unsupported.empty()) {
            throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, unsupported);
        }

        const std::string why = ckv_check_profile(*model, *profile);
        if (!why.empty()) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, why);
        }

        ckv_attach_settings(model, ckv_copy_profile(*profile));

        return ckv_fail(LLAMA_CKV_OK, ""); // a context that cannot be created next says why, and no earlier sentence remains
    });
}

int32_t llama_ckv_detach(const llama_model * model) {
    return ckv_guard([=] {
        ckv_detach_settings(model);
        return LLAMA_CKV_OK;
    });
}
