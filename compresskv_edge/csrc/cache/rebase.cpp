#include "cache/rebase.h"

#include "cache/blocks.h"
#include "cache/rows.h"
#include "cache/sequences.h"
#include "graph/turn.h"

#include <algorithm>

// sliding-window layers hold all of their window: nothing inside it may move against the rest
ckv_numbering ckv_next_numbering(const llama_ckv & ckv, const ckv_swa & swa, llama_seq_id seq_id, llama_pos pos, int32_t n_max) {
    const auto & seq = ckv.seqs[seq_id];

    const llama_pos live  = std::min(ckv.prefix.pos_frozen(seq_id), std::max(pos - swa.n_swa(), 0)); // as upstream counts
    const llama_pos first = live + seq.numbering.n_rebased;

    return ckv_close_gaps(seq.numbering, ckv.prefix.held(seq_id, first), seq.protect, first, pos - live, (int32_t) ckv.settings.window, n_max);
}

bool ckv_is_alone(const llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next) {
    for (const auto & pos : ckv.prefix.blocks[ckv.prefix.block_of(seq_id)].pos) {
        if (!std::all_of(pos.begin(), pos.end(), [&](llama_pos p) { return next.holds(p); })) {
            return false;
        }
    }
    return !ckv_is_shared(ckv, seq_id);
}

static bool ckv_turn_layer(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, const ckv_numbering & next) {
    if (!ckv.up.has_rope(ikv)) {
        return true;
    }

    ckv_turn keys    = { ckv.up.k(ikv),     ckv.up.n_head_kv(ikv), {}, {} };
    ckv_turn queries = { ckv.layers[ikv].q, ckv.up.n_head   (ikv), {}, {} };

    const auto & seq    = ckv.seqs[seq_id];
    const auto & before = seq.numbering;

    const auto tokens = ckv.positions(ikv, seq_id);
    const auto rows   = ckv.rows     (ikv, seq_id);

    for (size_t i = 0; i < tokens.size(); ++i) {
        const llama_pos shift = next.position(tokens[i]) - before.position(tokens[i]);
        if (shift != 0) {
            keys.rows  .push_back(rows[i]);
            keys.shifts.push_back(shift);
        }
    }
    for (const llama_pos p : seq.ring.pos) {
        if (p >= 0 && p + before.n_rebased >= next.first_live) {
            queries.rows  .push_back(ckv.ring_row(seq_id, p));
            queries.shifts.push_back(before.n_rebased - next.n_rebased);
        }
    }

    return ckv_turn_rows(ckv, ikv, keys) && ckv_turn_rows(ckv, ikv, queries);
}

// upstream's positions as the keys are now
static void ckv_renumber(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next) {
    auto & seq = ckv.seqs[seq_id];

    const llama_pos shift = next.n_rebased - seq.numbering.n_rebased;

    ckv.prefix.blocks[ckv.prefix.block_of(seq_id)].pos_frozen -= shift;

    for (auto & p : seq.ring.pos) {
        p = p >= 0 && p + seq.numbering.n_rebased >= next.first_live ? p - shift : -1;
    }
    seq.numbering = next;

    ckv.long_ring.clear(); // not rotated

    ckv.up.shift_cells(seq_id, shift);
}

bool ckv_rebase(llama_ckv & ckv, llama_seq_id seq_id, const ckv_numbering & next) {
    const ckv_access::no_abort scope(ckv.up.lctx);

    ckv_change change(ckv);
    change.begun = true;

    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        if (!ckv_turn_layer(ckv, i, seq_id, next)) {
            return false;
        }
    }
    ckv_renumber(ckv, seq_id, next);
    ckv.generation++;

    change.done = true;
    ckv_release_compute(ckv);

    return true;
}
