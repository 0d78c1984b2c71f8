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

    llama_ckv_ptr res(new llama_ckv(kv, settings, kv_size));

    // upstream allocates one buffer for all layers, which adopt() replaces: next to nothing, unless this only measures
    kv_size = kv.hparams.no_alloc ? std::min(kv_size, settings.n_tail) : kv.n_pad;

    return res;
}

llama_ckv_ptr ckv_create(llama_kv_cache & kv, uint32_t & kv_size) {
    return llama_ckv::create(kv, kv_size);
}

// one buffer or one a sequence is a matter of speed to upstream, its results are the same
bool ckv_unified(const llama_model & model, uint32_t n_seq_max, bool unified) {
    ckv_settings settings;

    if (unified || n_seq_max < 2 || !ckv_find_settings(&model, settings)) {
        return unified;
    }
    LLAMA_LOG_INFO("%s: %u compressed sequences are in one buffer: kv_unified = true\n", __func__, n_seq_max);

    return true;
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
        for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
            if (ubatch.seq_id_unq[s] >= (llama_seq_id) ckv->seqs.size()) {
                LLAMA_LOG_ERROR("%s: sequence %d of a context with n_seq_max = %zu\n", __func__, ubatch.seq_id_unq[s], ckv->seqs.size());
                return false;
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
    if (!ckv || ckv->restoring) {
        return true; // upstream empties the sequence before it restores the cells, after the prefix came back
    }
    if (!ckv->can_rm(seq_id, p0, p1)) {
        return false;
    }
    ckv->seq_rm(seq_id, p0, p1);

    return true;
}

// the sliding-window cache holds what the window needs at the end of the sequence; a removal further back would leave
// the tokens before it without their window. both caches change, or none does
bool ckv_seq_rm_iswa(const llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * ckv = base.ckv.get();
    if (!ckv) {
        return true;
    }
    return ckv->can_rm(seq_id, std::max(p0, 0), p1 < 0 ? INT32_MAX : p1) && ckv->can_rm_window(swa, seq_id, std::max(p0, 0));
}

bool ckv_can_cp(const llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    const auto unknown = [ckv](llama_seq_id seq_id) { return seq_id >= (llama_seq_id) ckv->seqs.size(); };

    if (ckv && (unknown(seq_id_src) || unknown(seq_id_dst))) {
        LLAMA_LOG_ERROR("%s: sequences %d and %d of a context with n_seq_max = %zu\n", __func__, seq_id_src, seq_id_dst, ckv->seqs.size());
        return false;
    }
    if (!ckv || ckv->can_cp(seq_id_src, seq_id_dst, std::max(p0, 0), p1 < 0 ? INT32_MAX : p1)) {
        return true;
    }
    LLAMA_LOG_ERROR("%s: sequence %d is compressed: copy all of it, or what ends at position %d or later, to a sequence that was emptied before\n",
            __func__, seq_id_src, ckv->pos_frozen(seq_id_src));
    return false;
}

bool ckv_seq_cp(llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    if (!ckv_can_cp(ckv, seq_id_src, seq_id_dst, p0, p1)) {
        return false;
    }
    if (ckv) {
        ckv->seq_cp(seq_id_src, seq_id_dst, std::max(p0, 0), p1 < 0 ? INT32_MAX : p1);
    }
    return true;
}

void ckv_seq_keep(llama_ckv * ckv, llama_seq_id seq_id) {
    if (ckv) {
        ckv->seq_keep(seq_id);
    }
}

bool ckv_can_shift(const llama_ckv * ckv) {
    return !ckv || ckv->several() || ckv->blocks.empty();
}

bool ckv_refuses_shift(const llama_ckv * ckv, llama_seq_id seq_id) {
    if (!ckv || ckv->block_of(seq_id) < 0) {
        return false;
    }
    LLAMA_LOG_ERROR("%s: sequence %d is compressed, its positions are shifted by llama_ckv_rebase() only\n", __func__, seq_id);
    return true;
}

uint32_t ckv_more_rows(const llama_ckv * ckv, int32_t ikv) {
    return ckv ? ckv->n_prefix(ikv) + ckv->n_filler(ikv) : 0;
}

uint32_t ckv_more_columns(const llama_ckv * ckv) {
    return ckv ? ckv->n_prefix_columns() + ckv->max_filler() : 0;
}
