#include "cache/sequences.h"

#include "cache/blocks.h"
#include "graph/move.h"

bool ckv_can_rm(const llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if ((seq_id < 0 || s == seq_id) && !ckv.prefix.can_rm(s, p0, p1, ckv.up.pos_max(s))) {
            return false;
        }
    }
    return true;
}

bool ckv_can_rm_swa(const llama_ckv & ckv, const ckv_swa & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (!ckv_can_rm(ckv, seq_id, p0, p1)) {
        return false;
    }
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if ((seq_id < 0 || s == seq_id) && !swa.can_rm(s, p0)) {
            return false;
        }
    }
    return true;
}

bool ckv_is_shared(const llama_ckv & ckv, llama_seq_id seq_id) {
    const int32_t b = ckv.prefix.block_of(seq_id);

    return (b >= 0 && ckv.prefix.blocks[b].seqs.count() > 1) || ckv.up.shares_cells(seq_id);
}

void ckv_leave(llama_ckv & ckv, llama_seq_id seq_id) {
    ckv.prefix.leave(seq_id);

    auto & seq = ckv.seqs[seq_id];
    seq.ring.clear();
    seq.numbering = {};

    ckv.long_ring.clear();
}

void ckv_forget(llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    ckv.seqs[seq_id].ring.forget(p0, p1);
    ckv.long_ring.forget(p0, p1); // kept of one sequence only
}

// no other sequence has a cell or a block
static bool ckv_nobody_else(const llama_ckv & ckv, llama_seq_id seq_id) {
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if (s != seq_id && (ckv.up.n_used(s) > 0 || ckv.prefix.block_of(s) >= 0)) {
            return false;
        }
    }
    return true;
}

void ckv_rm(llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    bool all = true; // of the sequences that are meant

    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if (seq_id >= 0 && s != seq_id) {
            continue;
        }
        if (ckv.prefix.is_all(s, p0, p1, ckv.up.pos_max(s))) {
            ckv_leave(ckv, s);
        } else {
            ckv_forget(ckv, s, p0, p1);
            all = false;
        }
    }

    // rows of a prefix that nobody uses stay in front of cells that are left: they go with the next compression
    if (all && ckv.prefix.is_dead() && (seq_id < 0 || ckv_nobody_else(ckv, seq_id))) {
        ckv_reset(ckv);
    }
}

void ckv_keep(llama_ckv & ckv, llama_seq_id seq_id) {
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if (s != seq_id) {
            ckv_leave(ckv, s);
        }
    }
    if (!ckv.prefix.empty() && ckv.prefix.block_of(seq_id) < 0 && ckv.up.n_used(seq_id) == 0) {
        ckv_reset(ckv);
    }
}

// the queries, so that a fork can be compressed at once
static void ckv_copy_ring(llama_ckv & ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst) {
    ckv.up.synchronize();

    for (const auto & layer : ckv.layers) {
        if (layer.q) {
            ckv_copy_rows(layer.q, ckv.ring_row(seq_id_src, 0), layer.q, ckv.ring_row(seq_id_dst, 0), ckv.settings.window);
        }
    }
}

void ckv_cp(llama_ckv & ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    const int32_t b = ckv.prefix.block_of(seq_id_src);

    if (seq_id_src == seq_id_dst) {
        return;
    }
    if (p0 > ckv.prefix.pos_frozen(seq_id_src)) {
        ckv_forget(ckv, seq_id_dst, p0, p1);
        return;
    }
    ckv_seq copy = ckv.seqs[seq_id_src]; // from here on nothing can fail
    copy.reserved.swap(ckv.seqs[seq_id_dst].reserved);
    copy.ring.forget(p1, INT32_MAX);

    ckv_copy_ring(ckv, seq_id_src, seq_id_dst);

    ckv.seqs[seq_id_dst] = std::move(copy);
    if (b >= 0) {
        ckv.prefix.blocks[b].seqs.set(seq_id_dst);
    }
}
