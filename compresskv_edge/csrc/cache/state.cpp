// the prefix in saved states: one section in front of the cells that upstream writes (llama_state_*, llama_state_seq_*)
//
//     magic, version, window, layers     u32 each
//     cells that follow                  u32
//     sequences                          u32, then each: id i32, numbering (rebased i32, first live i32, u32, kept i32),
//                                        ring positions (window,) i32
//     blocks                             u32, then each: frozen i32, sequences u32, their ids i32, rows (layers,) u32
//     a layer: bytes of a row of K and V u64 each
//              a block:    positions (rows,) i32, K rows, V rows
//              a sequence: ring of queries (window, n_embd_head*n_head) f32

#include "cache/state.h"

#include "cache/blocks.h"

#include "llama-io.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

static constexpr uint32_t CKV_STATE_MAGIC   = 0x564b4343; // "CCKV"
static constexpr uint32_t CKV_STATE_VERSION = 2; // 1: one sequence

template <typename T>
static void ckv_write(llama_io_write_i & io, const T & value) {
    io.write(&value, sizeof(T));
}

template <typename T>
static T ckv_read(llama_io_read_i & io) {
    T res;
    io.read(&res, sizeof(T));
    return res;
}

// a field that must be as in this context
template <typename T>
static void ckv_expect(llama_io_read_i & io, const T & value, const char * what) {
    if (ckv_read<T>(io) != value) {
        throw std::runtime_error(std::string("the state does not fit this compressed KV cache: ") + what);
    }
}

// the sequences and blocks that a state of seq_id holds
static std::vector<llama_seq_id> ckv_state_seqs(const llama_ckv & ckv, llama_seq_id seq_id) {
    std::vector<llama_seq_id> res;
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if (seq_id < 0 ? ckv.up.n_used(s) > 0 || ckv.prefix.block_of(s) >= 0 : s == seq_id) {
            res.push_back(s);
        }
    }
    return res;
}

static std::vector<int32_t> ckv_state_blocks(const llama_ckv & ckv, const std::vector<llama_seq_id> & ids) {
    std::vector<int32_t> res;
    for (size_t b = 0; b < ckv.prefix.blocks.size(); ++b) {
        if (std::any_of(ids.begin(), ids.end(), [&](llama_seq_id s) { return ckv.prefix.blocks[b].seqs.test(s); })) {
            res.push_back((int32_t) b);
        }
    }
    return res;
}

static void ckv_write_block(llama_io_write_i & io, const ckv_block & block, const std::vector<llama_seq_id> & ids) {
    std::vector<llama_seq_id> members;
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(members), [&](llama_seq_id s) { return block.seqs.test(s); });

    ckv_write(io, block.pos_frozen);
    ckv_write(io, (uint32_t) members.size());
    io.write(members.data(), members.size()*sizeof(llama_seq_id));

    for (const auto & pos : block.pos) {
        ckv_write(io, (uint32_t) pos.size());
    }
}

static void ckv_write_seq(llama_io_write_i & io, llama_seq_id s, const ckv_seq & seq) {
    ckv_write(io, s);
    ckv_write(io, seq.numbering.n_rebased);
    ckv_write(io, seq.numbering.first_live);
    ckv_write(io, (uint32_t) seq.numbering.kept.size());
    io.write(seq.numbering.kept.data(), seq.numbering.kept.size()*sizeof(llama_pos));
    io.write(seq.ring.pos.data(), seq.ring.size()*sizeof(llama_pos));
}

static void ckv_write_layer(const llama_ckv & ckv, llama_io_write_i & io, int32_t ikv, const std::vector<llama_seq_id> & ids, const std::vector<int32_t> & saved) {
    auto * k = ckv.up.k(ikv);
    auto * v = ckv.up.v(ikv);
    auto * q = ckv.layers[ikv].q;

    ckv_write(io, (uint64_t) k->nb[1]);
    ckv_write(io, (uint64_t) v->nb[1]);

    for (const int32_t b : saved) {
        const auto & pos = ckv.prefix.blocks[b].pos[ikv];
        const size_t row = ckv.prefix.first_row(ikv, b);

        io.write(pos.data(), pos.size()*sizeof(llama_pos));
        io.write_tensor(k, row*k->nb[1], pos.size()*k->nb[1]);
        io.write_tensor(v, row*v->nb[1], pos.size()*v->nb[1]);
    }
    for (const llama_seq_id s : ids) {
        io.write_tensor(q, ckv.ring_row(s, 0)*q->nb[1], ckv.settings.window*q->nb[1]);
    }
}

void ckv_write_state(const llama_ckv & ckv, llama_io_write_i & io, llama_seq_id seq_id) {
    const auto ids   = ckv_state_seqs(ckv, seq_id);
    const auto saved = ckv_state_blocks(ckv, ids);

    ckv_write(io, CKV_STATE_MAGIC);
    ckv_write(io, CKV_STATE_VERSION);
    ckv_write(io, ckv.settings.window);
    ckv_write(io, (uint32_t) ckv.layers.size());
    ckv_write(io, seq_id < 0 ? ckv.up.n_used() : ckv.up.n_used(seq_id));

    ckv_write(io, (uint32_t) ids.size());
    for (const llama_seq_id s : ids) {
        ckv_write_seq(io, s, ckv.seqs[s]);
    }

    ckv_write(io, (uint32_t) saved.size());
    for (const int32_t b : saved) {
        ckv_write_block(io, ckv.prefix.blocks[b], ids);
    }

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        ckv_write_layer(ckv, io, i, ids, saved);
    }
}

static std::vector<llama_pos> ckv_read_positions(llama_io_read_i & io, uint32_t n) {
    std::vector<llama_pos> res(n);
    io.read(res.data(), n*sizeof(llama_pos));
    return res;
}

// what a state says before its rows
struct ckv_state_head {
    uint32_t n_cells = 0;

    std::vector<llama_seq_id> ids; // as in this cache
    std::vector<ckv_seq>      seqs;
    std::vector<ckv_block>    blocks; // positions sized, not yet read
};

static void ckv_refuse_state(bool bad, const std::string & why) {
    if (bad) {
        throw std::runtime_error(why);
    }
}

static ckv_block ckv_read_block(llama_io_read_i & io, const llama_ckv & ckv, llama_seq_id seq_id, size_t n_layer) {
    ckv_block res;

    res.pos_frozen = ckv_read<llama_pos>(io);
    ckv_refuse_state(res.pos_frozen < 0 || res.pos_frozen > (llama_pos) ckv.n_ctx,
            "the state holds more tokens than n_ctx = " + std::to_string(ckv.n_ctx) + ": create the context with a larger n_ctx");

    const auto n_members = ckv_read<uint32_t>(io);
    ckv_refuse_state(n_members < 1 || n_members > (seq_id < 0 ? ckv.seqs.size() : 1), "the state is damaged: sequences of a prefix");

    for (const llama_seq_id member : ckv_read_positions(io, n_members)) {
        ckv_refuse_state(seq_id < 0 && (member < 0 || member >= (llama_seq_id) ckv.seqs.size()), "the state is damaged: sequences of a prefix");
        res.seqs.set(seq_id < 0 ? member : seq_id);
    }

    for (size_t i = 0; i < n_layer; ++i) {
        const auto n = ckv_read<uint32_t>(io);
        ckv_refuse_state(n > (uint32_t) res.pos_frozen, "the state is damaged: a layer keeps more tokens than there were");
        res.pos.emplace_back(n);
    }

    return res;
}

static ckv_numbering ckv_read_numbering(llama_io_read_i & io, uint32_t n_ctx) {
    ckv_numbering res;
    res.n_rebased  = ckv_read<llama_pos>(io);
    res.first_live = ckv_read<llama_pos>(io);

    const auto n = ckv_read<uint32_t>(io);
    ckv_refuse_state(n > n_ctx || res.n_rebased < 0 || res.first_live < 0, "the state is damaged: positions");

    res.kept = ckv_read_positions(io, n);

    return res;
}

static void ckv_read_seq(llama_io_read_i & io, const llama_ckv & ckv, llama_seq_id seq_id, ckv_state_head & head) {
    const auto id = ckv_read<llama_seq_id>(io);
    ckv_refuse_state(seq_id < 0 && (id < 0 || id >= (llama_seq_id) ckv.seqs.size()),
            "the state holds sequence " + std::to_string(id) + ": create the context with a larger n_seq_max");

    ckv_seq seq;
    seq.numbering = ckv_read_numbering(io, ckv.n_ctx);
    seq.ring.pos  = ckv_read_positions(io, ckv.settings.window);

    head.ids .push_back(seq_id < 0 ? id : seq_id);
    head.seqs.push_back(seq);
}

static ckv_state_head ckv_read_head(llama_io_read_i & io, const llama_ckv & ckv, llama_seq_id seq_id) {
    ckv_expect(io, CKV_STATE_MAGIC,     "it was saved without a profile");
    ckv_expect(io, CKV_STATE_VERSION,   "it was saved by another version");
    ckv_expect(io, ckv.settings.window, "another observation window");
    ckv_expect(io, (uint32_t) ckv.layers.size(), "another number of layers");

    ckv_state_head res;

    res.n_cells = ckv_read<uint32_t>(io);
    ckv_refuse_state(res.n_cells > (uint64_t) ckv.n_ctx*ckv.seqs.size(),
            "the state holds more tokens than n_ctx = " + std::to_string(ckv.n_ctx) + ": create the context with a larger n_ctx");

    const auto n_seqs = ckv_read<uint32_t>(io);
    ckv_refuse_state(n_seqs > ckv.seqs.size() || (seq_id >= 0 && n_seqs != 1),
            "the state holds " + std::to_string(n_seqs) + " sequences: create the context with a larger n_seq_max");

    for (uint32_t i = 0; i < n_seqs; ++i) {
        ckv_read_seq(io, ckv, seq_id, res);
    }

    const auto n_blocks = ckv_read<uint32_t>(io);
    ckv_refuse_state(n_blocks > n_seqs, "the state is damaged: more prefixes than sequences");

    for (uint32_t b = 0; b < n_blocks; ++b) {
        res.blocks.push_back(ckv_read_block(io, ckv, seq_id, ckv.layers.size()));
    }

    return res;
}

// the others stay where they are; rows and cells for what the state holds
static void ckv_room_for_state(llama_ckv & ckv, llama_seq_id seq_id, const ckv_state_head & head) {
    ckv.up.flush();
    if (seq_id < 0) {
        ckv_clear(ckv, ckv.settings.n_tail);
    }

    ckv_layout layout = ckv_layout_of_others(ckv, std::max(seq_id, 0), {});
    for (const auto & block : head.blocks) {
        std::vector<std::vector<int32_t>> rows;
        for (const auto & pos : block.pos) {
            rows.emplace_back(pos.size(), 0); // any row, it is overwritten
        }
        layout.add(block, rows);
    }
    layout.n_tail = ckv_tail_for(layout, head.n_cells, ckv.tail_size());

    ckv_refuse_state(!ckv_rebuild(ckv, layout), "no memory for the KV cache of the state");
}

static void ckv_read_layer(llama_ckv & ckv, llama_io_read_i & io, int32_t ikv, const ckv_state_head & head) {
    auto * k = ckv.up.k(ikv);
    auto * v = ckv.up.v(ikv);
    auto * q = ckv.layers[ikv].q;

    ckv_expect(io, (uint64_t) k->nb[1], "another type_k");
    ckv_expect(io, (uint64_t) v->nb[1], "another type_v");

    // upstream may copy the bytes later: the tensors are in place by now
    for (size_t b = ckv.prefix.size() - head.blocks.size(); b < ckv.prefix.size(); ++b) {
        auto &       pos = ckv.prefix.blocks[b].pos[ikv];
        const size_t row = ckv.prefix.first_row(ikv, b);

        pos = ckv_read_positions(io, (uint32_t) pos.size());
        io.read_tensor(k, row*k->nb[1], pos.size()*k->nb[1]);
        io.read_tensor(v, row*v->nb[1], pos.size()*v->nb[1]);
    }
    for (const llama_seq_id s : head.ids) {
        io.read_tensor(q, ckv.ring_row(s, 0)*q->nb[1], ckv.settings.window*q->nb[1]);
    }
}

void ckv_read_state(llama_ckv & ckv, llama_io_read_i & io, llama_seq_id seq_id) {
    const auto head = ckv_read_head(io, ckv, seq_id);

    ckv_room_for_state(ckv, seq_id, head);

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        ckv_read_layer(ckv, io, i, head);
    }

    for (size_t i = 0; i < head.ids.size(); ++i) {
        ckv.seqs[head.ids[i]].numbering = head.seqs[i].numbering;
        ckv.seqs[head.ids[i]].ring      = head.seqs[i].ring;
    }
}

void ckv_check_cells(const llama_ckv & ckv, llama_seq_id seq_id) {
    for (llama_seq_id s = 0; s < (llama_seq_id) ckv.seqs.size(); ++s) {
        if (seq_id >= 0 && s != seq_id) {
            continue;
        }
        const auto cells = ckv.up.tail(s); // in order of position
        ckv_refuse_state(!cells.empty() && (cells.front().pos < ckv.prefix.pos_frozen(s) || cells.back().pos >= (llama_pos) ckv.n_ctx),
                "the state is damaged: positions of cells");
    }
}

void ckv_drop(llama_ckv & ckv, llama_seq_id seq_id) {
    if (seq_id < 0) {
        ckv_clear(ckv, ckv.up.n_tail());
    } else {
        ckv.up.remove_cells(seq_id);
    }
}
