#include "cache/cache.h"

#include <algorithm>

llama_ckv::llama_ckv(llama_kv_cache & kv, const ckv_settings & profile, uint32_t n_positions) :
    up(kv), settings(profile), n_ctx(n_positions), seqs(up.n_seq_max()) {
    for (auto & seq : seqs) {
        seq.ring = ckv_ring(settings.window);
    }
}

bool llama_ckv::several() const {
    return seqs.size() > 1;
}

//
// rows and columns
//

uint32_t llama_ckv::max_prefix() const {
    uint32_t res = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        res = std::max(res, prefix.n_rows(i));
    }
    return res;
}

uint32_t llama_ckv::pad_rows(int32_t ikv, uint32_t n_rows) const {
    return row_steps.empty() ? n_rows : ckv_pad(n_rows, row_steps[ikv]);
}

uint32_t llama_ckv::n_filler(int32_t ikv) const {
    const uint32_t n_rows = prefix.n_rows(ikv) + up.n_tail();
    return pad_rows(ikv, n_rows) - n_rows;
}

uint32_t llama_ckv::max_filler() const {
    uint32_t res = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        res = std::max(res, n_filler((int32_t) i));
    }
    return res;
}

uint32_t llama_ckv::n_columns() const {
    return several() ? (uint32_t) prefix.size() : max_prefix();
}

ckv_tail_size llama_ckv::tail_size() const {
    return { settings.window, settings.n_tail, n_ctx, CKV_PAD };
}

//
// tokens
//

std::vector<llama_pos> llama_ckv::positions(int32_t ikv, llama_seq_id seq_id) const {
    return prefix.positions(ikv, seq_id, up.tail(seq_id), seqs[seq_id].numbering.n_rebased);
}

std::vector<int32_t> llama_ckv::rows(int32_t ikv, llama_seq_id seq_id) const {
    return prefix.rows(ikv, seq_id, up.tail(seq_id));
}

std::vector<int32_t> llama_ckv::pinned(int32_t ikv, llama_seq_id seq_id) const {
    const auto & protect = seqs[seq_id].protect;

    std::vector<int32_t> res;

    const auto pos = positions(ikv, seq_id);
    for (size_t i = 0; i < pos.size(); ++i) {
        if (std::binary_search(protect.begin(), protect.end(), pos[i])) {
            res.push_back((int32_t) i);
        }
    }

    return res;
}

llama_pos llama_ckv::n_frozen(llama_seq_id seq_id) const {
    return prefix.block_of(seq_id) < 0 ? 0 : prefix.pos_frozen(seq_id) + seqs[seq_id].numbering.n_rebased;
}

int64_t llama_ckv::n_seen(llama_seq_id seq_id) const {
    return seqs[seq_id].numbering.n_rebased + std::max<int64_t>(prefix.pos_frozen(seq_id), (int64_t) up.pos_max(seq_id) + 1);
}

//
// rings
//

int32_t llama_ckv::ring_row(llama_seq_id seq_id, llama_pos pos) const {
    return seq_id*(int32_t) settings.window + seqs[seq_id].ring.row(pos);
}

std::vector<int32_t> llama_ckv::window_rows(llama_seq_id seq_id) const {
    auto res = seqs[seq_id].ring.rows(up.pos_max(seq_id));
    for (auto & row : res) {
        row += ring_row(seq_id, 0);
    }
    return res;
}

std::vector<int32_t> llama_ckv::long_rows() const {
    return long_ring.rows(up.pos_max(0));
}

//
// bytes
//

// by the allocator, so that llama_memory_breakdown() says the same
size_t llama_ckv::kv_bytes() const {
    return up.buffer_bytes() - window_bytes();
}

size_t llama_ckv::window_bytes() const {
    size_t res = 0;
    for (const auto & layer : layers) {
        res += (layer.q ? ggml_nbytes(layer.q) : 0) + (layer.q_long ? ggml_nbytes(layer.q_long) : 0);
    }
    return res;
}
