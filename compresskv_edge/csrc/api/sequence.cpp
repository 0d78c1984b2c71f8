// what is set for a sequence or changes its positions

#include "api/api.h"
#include "cache/blocks.h"
#include "cache/rebase.h"
#include "cache/rows.h"
#include "upstream/models.h"

#include <algorithm>

int32_t llama_ckv_protect(llama_context * ctx, llama_seq_id seq_id, const llama_pos * positions, int32_t n_positions) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        ckv_check_argument(n_positions == 0 || (n_positions > 0 && positions), "positions is NULL or n_positions negative");

        std::vector<llama_pos> protect(positions, positions + n_positions);
        std::sort(protect.begin(), protect.end());
        protect.erase(std::unique(protect.begin(), protect.end()), protect.end());

        ckv.seqs[seq_id].protect = std::move(protect);

        return LLAMA_CKV_OK;
    });
}

int32_t llama_ckv_keep_queries(llama_context * ctx, int32_t n_tokens) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get(ctx);

        if (n_tokens < 0 || n_tokens > (int32_t) ckv.n_ctx) {
            throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "n_tokens is " + std::to_string(n_tokens) + ", not in 0.." + std::to_string(ckv.n_ctx));
        }
        if (ckv.several()) {
            throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, "more queries than the window's are kept of one sequence only: create the context with n_seq_max = 1");
        }
        if (n_tokens == (int32_t) ckv.long_ring.size()) {
            return LLAMA_CKV_OK;
        }

        ckv.up.flush();

        if (!ckv_keep_queries(ckv, n_tokens)) {
            throw ckv_error(LLAMA_CKV_ERR_MEMORY, "no memory for the queries of " + std::to_string(n_tokens) + " tokens");
        }
        return LLAMA_CKV_OK;
    });
}

static void ckv_check_rebase(const llama_ckv & ckv, const ckv_swa & swa, llama_seq_id seq_id) {
    const std::string why = swa.shares_cells(seq_id) ? "its sliding-window layers are shared with a fork" : ckv_cannot_shift(ckv.up.model());

    if (!why.empty()) {
        throw ckv_error(LLAMA_CKV_ERR_UNSUPPORTED, "positions of sequence " + std::to_string(seq_id) + " cannot be re-based: " + why);
    }
}

static int32_t ckv_rebase_to(llama_ckv & ckv, llama_seq_id seq_id, int32_t n_max) {
    const ckv_swa   swa = ckv_swa_of(ckv.up.lctx);
    const llama_pos pos = std::max(ckv.prefix.pos_frozen(seq_id), ckv.up.pos_max(seq_id) + 1);

    ckv_check_rebase(ckv, swa, seq_id);

    if (ckv.prefix.block_of(seq_id) < 0) {
        if (pos > n_max) {
            throw ckv_error(LLAMA_CKV_ERR_STATE, "nothing of sequence " + std::to_string(seq_id) + " is compressed yet: compress it first");
        }
        return pos;
    }

    const ckv_numbering next  = ckv_next_numbering(ckv, swa, seq_id, pos, n_max);
    const llama_pos     shift = next.n_rebased - ckv.seqs[seq_id].numbering.n_rebased;

    if (pos - shift > n_max) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "n_max is " + std::to_string(n_max) + ", but the tail and the protected tokens of sequence " +
                std::to_string(seq_id) + " take " + std::to_string(pos - shift) + " positions");
    }
    if (shift == 0) {
        return pos; // nothing to close
    }
    if (!ckv_is_alone(ckv, seq_id, next) && !ckv_unshare(ckv, seq_id, next)) {
        ckv_throw_moved(ckv, "no memory to re-base the positions; the cache is unchanged");
    }
    if (!ckv_rebase(ckv, seq_id, next)) {
        throw ckv_error(LLAMA_CKV_ERR_COMPUTE, "rotating the kept keys failed; the cache is empty, decode the prompt again");
    }
    ckv_shift_swa(ckv.up.lctx, seq_id, shift);

    return pos - shift;
}

int32_t llama_ckv_rebase(llama_context * ctx, llama_seq_id seq_id, int32_t n_max) {
    return ckv_guard([=] {
        llama_ckv & ckv = ckv_get_seq(ctx, seq_id);
        ckv.up.flush();

        return ckv_rebase_to(ckv, seq_id, n_max);
    });
}
