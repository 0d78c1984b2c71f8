// several sequences in one cache: which block of the prefix belongs to whom, and what removing, forking and keeping a
// sequence means for it

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>

bool llama_ckv::several() const {
    return seqs.size() > 1;
}

int32_t llama_ckv::block_of(llama_seq_id seq_id) const {
    for (size_t b = 0; b < blocks.size(); ++b) {
        if (blocks[b].seqs.test(seq_id)) {
            return b;
        }
    }
    return -1;
}

llama_pos llama_ckv::pos_frozen(llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);
    return b < 0 ? 0 : blocks[b].pos_frozen;
}

bool llama_ckv::is_all(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    return p0 <= 0 && p1 > cells().seq_pos_max(seq_id) && p1 >= pos_frozen(seq_id);
}

llama_pos llama_ckv::n_frozen(llama_seq_id seq_id) const {
    return block_of(seq_id) < 0 ? 0 : pos_frozen(seq_id) + seqs[seq_id].numbering.n_rebased;
}

// a frozen token cannot be removed alone: in which layers it still is differs
bool llama_ckv::can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    if (seq_id < 0) {
        for (size_t s = 0; s < seqs.size(); ++s) {
            if (!can_rm(s, p0, p1)) {
                return false;
            }
        }
        return true;
    }
    return p0 >= pos_frozen(seq_id) || p1 <= 0 || is_all(seq_id, p0, p1);
}

bool llama_ckv::can_rm_window(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0) const {
    if (seq_id < 0) {
        for (size_t s = 0; s < seqs.size(); ++s) {
            if (!can_rm_window(swa, s, p0)) {
                return false;
            }
        }
        return true;
    }
    const llama_pos first = swa.seq_pos_min(seq_id);

    return first <= 0 || p0 == 0 || p0 - (llama_pos) swa.n_swa + 1 >= first || p0 > swa.seq_pos_max(seq_id);
}

// all of the prefix or nothing of it, and to a sequence that has none of its own
bool llama_ckv::can_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) const {
    const int32_t b = block_of(seq_id_src);

    if (seq_id_src == seq_id_dst || b < 0 || p0 >= blocks[b].pos_frozen) {
        return true;
    }

    const int32_t b_dst = block_of(seq_id_dst);

    return p0 <= 0 && p1 >= blocks[b].pos_frozen && (b_dst < 0 || b_dst == b);
}

void llama_ckv::leave(llama_seq_id seq_id) {
    const int32_t b = block_of(seq_id);
    if (b >= 0) {
        blocks[b].seqs.reset(seq_id);
    }

    auto & seq = seqs[seq_id];
    seq.ring_pos.assign(settings.window, -1);
    seq.numbering = {};

    std::fill(long_pos.begin(), long_pos.end(), -1);
}

// no other sequence has a cell or a block
bool llama_ckv::nobody_else(llama_seq_id seq_id) const {
    for (llama_seq_id s = 0; s < (llama_seq_id) seqs.size(); ++s) {
        if (s != seq_id && (n_used(s) > 0 || block_of(s) >= 0)) {
            return false;
        }
    }
    return true;
}

// called before upstream removes the cells, after can_rm() said yes
void llama_ckv::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    for (llama_seq_id s = 0; s < (llama_seq_id) seqs.size(); ++s) {
        if ((seq_id >= 0 && s != seq_id) || !is_all(s, p0, p1)) {
            continue;
        }
        if (block_of(s) < 0 && seqs[s].numbering.n_rebased == 0) {
            continue; // nothing of it is ours
        }
        leave(s);
    }

    const bool all_dead = std::all_of(blocks.begin(), blocks.end(), [](const ckv_block & block) { return block.seqs.none(); });

    if (!blocks.empty() && all_dead && (seq_id < 0 || nobody_else(seq_id))) {
        reset();
    }
}

void llama_ckv::seq_keep(llama_seq_id seq_id) {
    for (llama_seq_id s = 0; s < (llama_seq_id) seqs.size(); ++s) {
        if (s != seq_id) {
            leave(s);
        }
    }
    if (!blocks.empty() && block_of(seq_id) < 0 && n_used(seq_id) == 0) {
        reset();
    }
}

// called before upstream copies the cells, after can_cp() said yes
void llama_ckv::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    const int32_t b = block_of(seq_id_src);

    if (seq_id_src == seq_id_dst || p0 > pos_frozen(seq_id_src)) {
        return;
    }
    if (b >= 0) {
        blocks[b].seqs.set(seq_id_dst);
    }

    seqs[seq_id_dst].protect   = seqs[seq_id_src].protect;
    seqs[seq_id_dst].numbering = seqs[seq_id_src].numbering;

    copy_ring(seq_id_src, seq_id_dst, p1);
}

// the queries of the tokens before p1, so that a fork can be compressed at once
void llama_ckv::copy_ring(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p1) {
    if (lctx) {
        lctx->synchronize();
    }

    for (const auto & layer : layers) {
        if (!layer.q) {
            continue;
        }

        ggml_init_params params = { 2*ggml_tensor_overhead(), NULL, true };
        ggml_context_ptr ctx { ggml_init(params) };

        const auto view = [&](llama_seq_id seq_id) {
            ggml_tensor * res = ggml_view_2d(ctx.get(), layer.q, layer.q->ne[0], settings.window, layer.q->nb[1], ring_row(seq_id, 0)*layer.q->nb[1]);
            ggml_backend_view_init(res);
            return res;
        };
        ggml_backend_tensor_copy(view(seq_id_src), view(seq_id_dst));
    }

    auto & ring_pos = seqs[seq_id_dst].ring_pos;
    ring_pos = seqs[seq_id_src].ring_pos;
    std::replace_if(ring_pos.begin(), ring_pos.end(), [p1](llama_pos pos) { return pos >= p1; }, -1);
}
