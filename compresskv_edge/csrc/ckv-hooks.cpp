// what the patched upstream files call; the hooks of the graph are in ckv-graph.cpp, those of states in ckv-state.cpp

#include "ckv-cache.h"

#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <stdexcept>

void llama_ckv_deleter::operator()(llama_ckv * ckv) const {
    delete ckv;
}

static void ckv_throw(const std::string & sentence) {
    ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, sentence);
    throw std::runtime_error(sentence);
}

llama_ckv_ptr llama_ckv::create(llama_kv_cache & kv, uint32_t & kv_size) {
    ckv_settings settings;

    // sliding-window caches are bounded already; a shared cache belongs to another context
    if (!ckv_find_settings(&kv.model, settings) || kv.swa_type != LLAMA_SWA_TYPE_NONE || kv.other) {
        return nullptr;
    }
    if (kv.v_trans) {
        ckv_throw("a compressed KV cache needs flash attention: create the context with flash_attn enabled");
    }
    if (kv.n_seq_max > 1) {
        ckv_throw("a compressed KV cache holds one sequence for now, n_seq_max is " + std::to_string(kv.n_seq_max) +
                  ": create the context with n_seq_max = 1 (llama-cpp-python: embedding=False)");
    }

    llama_ckv_ptr res(new llama_ckv(kv, settings, kv_size));

    kv_size = std::min(kv_size, settings.n_tail);

    return res;
}

llama_ckv_ptr ckv_create(llama_kv_cache & kv, uint32_t & kv_size) {
    return llama_ckv::create(kv, kv_size);
}

void ckv_adopt(llama_ckv * ckv) {
    if (ckv && !ckv->adopt()) {
        throw std::runtime_error("failed to allocate buffer for the compressed kv cache");
    }
}

void ckv_bind(llama_ckv * ckv, llama_context * lctx) {
    if (ckv) {
        ckv->lctx = lctx;
    }
}

bool ckv_reserve(llama_ckv * ckv, const std::vector<llama_ubatch> & ubatches) {
    if (!ckv) {
        return true;
    }

    uint32_t n_tokens = 0;
    for (const auto & ubatch : ubatches) {
        n_tokens += ubatch.n_tokens;

        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (ubatch.pos[i] >= (llama_pos) ckv->n_ctx) {
                return false; // the context is full, as for the stock cache
            }
        }
    }

    return ckv->reserve(n_tokens);
}

void ckv_reset(llama_ckv * ckv) {
    if (ckv) {
        ckv->reset();
    }
}

bool ckv_seq_rm(llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (!ckv) {
        return true;
    }
    if (!ckv->can_rm(seq_id, p0, p1)) {
        return false;
    }
    // upstream empties the sequence before it restores the cells, after the prefix came back
    if (seq_id <= 0 && p0 < ckv->pos_frozen && p1 > 0 && !ckv->restoring) {
        ckv->reset(); // everything goes
    }
    return true;
}

// the sliding-window cache holds what the window needs at the end of the sequence; a removal further back would leave
// the tokens before it without their window. both caches change, or none does
bool ckv_seq_rm_iswa(const llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * ckv = base.ckv.get();
    if (!ckv || seq_id > 0) {
        return true;
    }
    return ckv->can_rm(seq_id, std::max(p0, 0), p1 < 0 ? INT32_MAX : p1) && ckv->can_rm_window(swa, std::max(p0, 0));
}

bool ckv_has_prefix(const llama_ckv * ckv) {
    return ckv && ckv->pos_frozen > 0;
}

bool ckv_refuses_shift(const llama_ckv * ckv) {
    if (!ckv_has_prefix(ckv)) {
        return false;
    }
    LLAMA_LOG_ERROR("%s: positions of a compressed KV cache cannot be shifted; clear it and decode again\n", __func__);
    return true;
}

uint32_t ckv_n_prefix(const llama_ckv * ckv, int32_t ikv) {
    return ckv ? ckv->n_prefix(ikv) : 0;
}

uint32_t ckv_max_prefix(const llama_ckv * ckv) {
    return ckv ? ckv->max_prefix() : 0;
}
