// what the patched upstream files call; the hooks of a graph are in graph/mask.cpp and graph/tap.cpp

#include "upstream/ckv-hooks.h"

#include "api/api.h"
#include "cache/blocks.h"
#include "cache/sequences.h"
#include "cache/settings.h"
#include "cache/state.h"
#include "cache/tail.h"

#include "llama-batch.h"
#include "llama-impl.h"

#include <algorithm>
#include <exception>
#include <stdexcept>

void ckv_log_exception() noexcept {
    try {
        throw;
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("compresskv: %s\n", err.what());
    } catch (...) {
        LLAMA_LOG_ERROR("compresskv: unknown error\n");
    }
}

// a hook inside upstream's calls: what it throws must not leave them. false: it did, logged
template <typename body_t>
static bool ckv_try(body_t && body) noexcept {
    try {
        return body();
    } catch (...) {
        ckv_log_exception();
        return false;
    }
}

void llama_ckv_deleter::operator()(llama_ckv * ckv) const {
    delete ckv;
}

//
// construction
//

static void ckv_throw(const std::string & sentence) {
    ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, sentence.c_str());
    throw std::runtime_error(sentence);
}

llama_ckv_ptr ckv_create(llama_kv_cache & kv, uint32_t & kv_size) {
    const ckv_access up(kv);

    ckv_settings settings;
    if (!ckv_find_settings(&up.model(), settings) || !ckv_access::can_hold(kv)) {
        return nullptr;
    }
    if (up.v_is_transposed()) {
        ckv_throw("a compressed KV cache needs flash attention: create the context with flash_attn enabled");
    }

    llama_ckv_ptr res(new llama_ckv(kv, settings, kv_size));

    // upstream allocates one buffer for all layers, which ckv_adopt() replaces: next to nothing, unless this only measures
    kv_size = up.is_dry_run() ? std::min(kv_size, settings.n_tail) : up.n_pad();

    return res;
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
    if (ckv && !ckv_adopt(*ckv)) {
        throw std::runtime_error("failed to allocate buffer for the compressed kv cache");
    }
}

void ckv_bind(llama_ckv * ckv, llama_context * lctx) {
    if (ckv) {
        ckv->up.lctx = lctx;
    }
}

//
// batches
//

static bool ckv_takes(const llama_ckv & ckv, const llama_ubatch & ubatch) {
    const llama_pos * first = ubatch.pos;
    if (std::any_of(first, first + ubatch.n_tokens, [&](llama_pos pos) { return pos >= (llama_pos) ckv.n_ctx; })) {
        return false; // the context is full, as for the stock cache
    }
    for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
        if (ubatch.seq_id_unq[s] >= (llama_seq_id) ckv.seqs.size()) {
            LLAMA_LOG_ERROR("%s: sequence %d of a context with n_seq_max = %zu\n", __func__, ubatch.seq_id_unq[s], ckv.seqs.size());
            return false;
        }
    }
    return true;
}

bool ckv_reserve(llama_ckv * ckv, const std::vector<llama_ubatch> & ubatches) {
    if (!ckv) {
        return true;
    }

    uint32_t n_tokens = 0;
    for (const auto & ubatch : ubatches) {
        n_tokens += ubatch.n_tokens;

        if (!ckv_takes(*ckv, ubatch)) {
            return false;
        }
    }

    return ckv_try([=] { return ckv_make_room(*ckv, n_tokens); });
}

//
// sequences. upstream takes negative positions for the ends
//

static llama_pos ckv_first(llama_pos p0) {
    return std::max(p0, 0);
}

static llama_pos ckv_end(llama_pos p1) {
    return p1 < 0 ? INT32_MAX : p1;
}

void ckv_reset(llama_ckv * ckv) {
    if (ckv) {
        ckv_reset(*ckv);
    }
}

bool ckv_seq_rm(llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (!ckv || ckv->restoring) {
        return true; // upstream empties the sequence before it restores the cells, after the prefix came back
    }
    if (!ckv_can_rm(*ckv, seq_id, ckv_first(p0), ckv_end(p1))) {
        return false;
    }
    ckv_rm(*ckv, seq_id, ckv_first(p0), ckv_end(p1));

    return true;
}

// the sliding-window cache holds what the window needs at the end of the sequence; a removal further back would leave
// the tokens before it without their window. both caches change, or none does
bool ckv_seq_rm_iswa(const llama_kv_cache & swa, const llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    return !ckv || ckv_can_rm_swa(*ckv, { &swa }, seq_id, ckv_first(p0), ckv_end(p1));
}

bool ckv_can_cp(const llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    const auto unknown = [ckv](llama_seq_id seq_id) { return seq_id >= (llama_seq_id) ckv->seqs.size(); };

    if (ckv && (unknown(seq_id_src) || unknown(seq_id_dst))) {
        LLAMA_LOG_ERROR("%s: sequences %d and %d of a context with n_seq_max = %zu\n", __func__, seq_id_src, seq_id_dst, ckv->seqs.size());
        return false;
    }
    if (!ckv || ckv->prefix.can_cp(seq_id_src, seq_id_dst, ckv_first(p0), ckv_end(p1))) {
        return true;
    }
    LLAMA_LOG_ERROR("%s: sequence %d is compressed: copy all of it, or what ends at position %d or later, to a sequence that was emptied before\n",
            __func__, seq_id_src, ckv->prefix.pos_frozen(seq_id_src));
    return false;
}

bool ckv_seq_cp(llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    if (!ckv_can_cp(ckv, seq_id_src, seq_id_dst, p0, p1)) {
        return false;
    }
    return !ckv || ckv_try([=] {
        ckv_cp(*ckv, seq_id_src, seq_id_dst, ckv_first(p0), ckv_end(p1));
        return true;
    });
}

void ckv_seq_keep(llama_ckv * ckv, llama_seq_id seq_id) {
    if (ckv) {
        ckv_keep(*ckv, seq_id);
    }
}

bool ckv_can_shift(const llama_ckv * ckv) {
    return !ckv || ckv->several() || ckv->prefix.empty();
}

bool ckv_refuses_shift(llama_ckv * ckv, llama_seq_id seq_id) {
    if (!ckv) {
        return false;
    }
    if (ckv->prefix.block_of(seq_id) < 0) {
        ckv_forget(*ckv, seq_id, 0, INT32_MAX); // upstream turns the keys, but not our queries
        return false;
    }
    LLAMA_LOG_ERROR("%s: sequence %d is compressed, its positions are shifted by llama_ckv_rebase() only\n", __func__, seq_id);
    return true;
}

//
// saved states
//

void ckv_state_write(const llama_ckv * ckv, llama_io_write_i & io, llama_seq_id seq_id) {
    if (ckv) {
        ckv_write_state(*ckv, io, seq_id);
    }
}

ckv_restore::ckv_restore(llama_ckv * cache, llama_io_read_i & io, llama_seq_id seq) : ckv(cache), seq_id(seq) {
    if (!ckv) {
        return;
    }

    try {
        ckv_read_state(*ckv, io, seq_id);
    } catch (...) {
        ckv_drop(*ckv, seq_id);
        throw;
    }
    ckv->restoring = true;
}

ckv_restore::~ckv_restore() {
    if (!ckv) {
        return;
    }

    ckv->restoring = false;
    if (std::uncaught_exceptions() > 0) {
        ckv_drop(*ckv, seq_id);
    }
}

void ckv_restore::check() const {
    if (ckv) {
        ckv_check_cells(*ckv, seq_id);
    }
}
