// Re-based positions: the positions that no layer holds any more are taken out, as if their tokens had never been there,
// and the kept keys are rotated by the difference. RoPE's rotations add up, so that this is upstream's K-shift with a shift
// of its own for every row; the same token gets the same position in every layer.

#include "ckv-api.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>

llama_pos ckv_numbering::position(llama_pos token) const {
    return token >= first_live ? token - n_rebased : std::lower_bound(kept.begin(), kept.end(), token) - kept.begin();
}

static bool ckv_holds(const ckv_numbering & numbering, llama_pos token) {
    return token >= numbering.first_live || std::binary_search(numbering.kept.begin(), numbering.kept.end(), token);
}

static std::string ckv_cannot_rebase(const llama_context & ctx, const llama_kv_cache * swa, llama_seq_id seq_id) {
    const auto & model = ctx.get_model();

    if (model.hparams.rope_type == LLAMA_ROPE_TYPE_NONE) {
        return "architecture '" + model.arch_name() + "' has no rotary positions";
    }
    if (model.arch == LLM_ARCH_STEP35 || model.hparams.n_pos_per_embd() > 1) {
        return "architecture '" + model.arch_name() + "' has positions that llama.cpp cannot shift";
    }
    for (uint32_t i = 0; swa && i < swa->get_cells(seq_id).size(); ++i) {
        const auto & cells = swa->get_cells(seq_id);
        if (!cells.is_empty(i) && cells.seq_has(i, seq_id) && cells.seq_count(i) > 1) {
            return "its sliding-window layers are shared with a fork";
        }
    }

    return "";
}

// tokens before `first_live` that some layer of the sequence holds, ascending
static std::vector<llama_pos> ckv_held(const llama_ckv & ckv, llama_seq_id seq_id, llama_pos first_live) {
    std::vector<llama_pos> res;

    const int32_t b = ckv.block_of(seq_id);
    for (size_t i = 0; b >= 0 && i < ckv.layers.size(); ++i) {
        const auto & pos = ckv.blocks[b].pos[i];
        res.insert(res.end(), pos.begin(), std::lower_bound(pos.begin(), pos.end(), first_live));
    }
    std::sort(res.begin(), res.end());
    res.erase(std::unique(res.begin(), res.end()), res.end());

    return res;
}

// the oldest tokens go that are not protected, until n_max are left
static void ckv_drop_oldest(std::vector<llama_pos> & kept, const std::vector<llama_pos> & protect, int64_t n_max) {
    int64_t n_drop = std::max<int64_t>((int64_t) kept.size() - n_max, 0);

    const auto drops = [&](llama_pos pos) { return n_drop > 0 && !std::binary_search(protect.begin(), protect.end(), pos) && n_drop-- > 0; };

    kept.erase(std::remove_if(kept.begin(), kept.end(), drops), kept.end());
}

// kept tokens at 0, 1, ..., the live ones behind them: these move by a multiple of the window, so that their ring rows stay.
// sliding-window layers hold all of their window: nothing inside it may move against the rest
ckv_numbering llama_ckv::close_gaps(const llama_kv_cache * swa, llama_seq_id seq_id, llama_pos pos, int32_t n_max) const {
    const auto & before = seqs[seq_id].numbering;

    const llama_pos first_live = std::min(pos_frozen(seq_id), swa ? std::max(pos - (llama_pos) swa->n_swa, 0) : pos);
    const int32_t   window     = settings.window;

    ckv_numbering res;
    res.first_live = first_live + before.n_rebased;
    res.kept       = ckv_held(*this, seq_id, res.first_live);

    ckv_drop_oldest(res.kept, seqs[seq_id].protect, n_max - (pos - first_live) - window);

    res.n_rebased = before.n_rebased + std::max((first_live - (llama_pos) res.kept.size())/window*window, 0);

    return res;
}

//
// the keys
//

// keys or queries in the cache's basis, [n_embd_head, n_head, n] f32, rotated by shift [n]
static ggml_tensor * ckv_rotate(ggml_context * ctx, const llama_ckv & ckv, int32_t ikv, ggml_tensor * cur, ggml_tensor * shift, ggml_tensor * rot) {
    const int32_t il      = ckv.model_layer(ikv);
    const auto &  model   = ckv.lctx->get_model();
    const auto &  cparams = ckv.lctx->get_cparams();

    const float freq_base  = model.get_rope_freq_base (cparams, il);
    const float freq_scale = model.get_rope_freq_scale(cparams, il);

    // the keys have their magnitude already; ggml scales by 1 + 0.1 log(1/freq_scale) with YaRN
    const float attn_factor = cparams.yarn_ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*std::log(1.0f/freq_scale)) : 1.0f;

    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }
    cur = ggml_rope_ext(ctx, cur, shift, model.get_rope_factors(cparams, il), model.hparams.n_rot(il), model.hparams.rope_type,
            cparams.n_ctx_orig_yarn, freq_base, freq_scale, cparams.yarn_ext_factor, attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);

    return rot ? llama_mul_mat_hadamard(ctx, cur, rot) : cur; // its own inverse
}

// rows of a tensor of keys or queries
struct ckv_turn {
    ggml_tensor * t;
    int64_t       n_head;

    std::vector<int32_t> rows;
    std::vector<int32_t> shifts;
};

static void ckv_set(ggml_tensor * t, const void * data) {
    ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
}

// read as f32, rotated, stored as the cache stores new keys
static bool ckv_turn_rows(llama_ckv & ckv, int32_t ikv, const ckv_turn & turn) {
    const int64_t n = turn.rows.size();
    if (n == 0) {
        return true;
    }

    ckv_graph graph(ckv, 32);
    auto * ctx = graph.ctx.get();

    ggml_tensor * rows  = graph.input_i32("ckv_rows", n);
    ggml_tensor * shift = graph.input_i32("ckv_shift", n);
    ggml_tensor * to    = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n);
    ggml_set_input(to);

    ggml_tensor * rot = ckv.kv.build_input_k_rot(ctx);

    ggml_tensor * flat = ggml_view_2d(ctx, turn.t, turn.t->ne[0], turn.t->ne[1], turn.t->nb[1], 0);
    ggml_tensor * cur  = ggml_get_rows(ctx, flat, rows);

    cur = ckv_rotate(ctx, ckv, ikv, ggml_reshape_3d(ctx, cur, cur->ne[0]/turn.n_head, turn.n_head, n), shift, rot);
    cur = ggml_reshape_2d(ctx, cur, turn.t->ne[0], n);

    ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, flat, cur, to));

    if (!graph.alloc()) {
        return false;
    }
    ckv_set(rows,  turn.rows.data());
    ckv_set(shift, turn.shifts.data());
    ckv_set(to,    std::vector<int64_t>(turn.rows.begin(), turn.rows.end()).data());
    if (rot) {
        ckv.set_k_rot(rot);
    }

    return graph.compute();
}

void llama_ckv::set_k_rot(ggml_tensor * rot) const {
    ckv_set(rot, kv.attn_rot_hadamard.at(rot->ne[0]).data());
}

static bool ckv_turn_layer(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, const ckv_numbering & next) {
    if (!ckv.lctx->get_model().hparams.has_rope(ckv.model_layer(ikv))) {
        return true;
    }

    ckv_turn keys    = { ckv.tensor_k(ikv),   ckv.n_head_kv(ikv), {}, {} };
    ckv_turn queries = { ckv.layers[ikv].q, ckv.n_head(ikv),    {}, {} };

    const auto & before = ckv.seqs[seq_id].numbering;

    const auto tokens = ckv.positions(ikv, seq_id);
    const auto rows   = ckv.rows     (ikv, seq_id);

    for (size_t i = 0; i < tokens.size(); ++i) {
        const llama_pos shift = next.position(tokens[i]) - before.position(tokens[i]);
        if (shift != 0) {
            keys.rows  .push_back(rows[i]);
            keys.shifts.push_back(shift);
        }
    }
    for (const llama_pos p : ckv.seqs[seq_id].ring_pos) {
        if (p + before.n_rebased >= next.first_live) {
            queries.rows  .push_back(ckv.ring_row(seq_id, p));
            queries.shifts.push_back(before.n_rebased - next.n_rebased);
        }
    }

    return ckv_turn_rows(ckv, ikv, keys) && ckv_turn_rows(ckv, ikv, queries);
}

//
// the bookkeeping
//

// the sequence alone in its block and cells, without the dropped positions
bool llama_ckv::unshare(llama_seq_id seq_id, const ckv_numbering & next) {
    const int32_t b = block_of(seq_id);

    ckv_layout layout = layout_without(seq_id, {});

    ckv_seq_set own;
    own.set(seq_id);

    if (b >= 0) {
        ckv_block block = blocks[b];
        block.seqs = own;

        std::vector<std::vector<int32_t>> kept(layers.size());
        for (size_t i = 0; i < layers.size(); ++i) {
            block.pos[i].clear();
            for (size_t j = 0; j < blocks[b].pos[i].size(); ++j) {
                if (ckv_holds(next, blocks[b].pos[i][j])) {
                    kept[i]     .push_back(first_row(i, b) + j);
                    block.pos[i].push_back(blocks[b].pos[i][j]);
                }
            }
        }
        add_block(layout, std::move(block), kept);
    }

    for (const uint32_t cell : tail_cells(seq_id)) {
        layout.cells.push_back({ cell, own });
    }
    layout.n_tail = tail_for(layout, 0);

    return rebuild(layout);
}

bool llama_ckv::is_alone(llama_seq_id seq_id, const ckv_numbering & next) const {
    const auto & block = blocks[block_of(seq_id)];

    for (const auto & pos : block.pos) {
        if (!std::all_of(pos.begin(), pos.end(), [&](llama_pos p) { return ckv_holds(next, p); })) {
            return false;
        }
    }
    for (const uint32_t cell : tail_cells(seq_id)) {
        if (cells().seq_count(cell) > 1) {
            return false;
        }
    }

    return block.seqs.count() == 1;
}

// upstream's positions as the keys are now
void llama_ckv::renumber(llama_seq_id seq_id, const ckv_numbering & next) {
    auto & seq = seqs[seq_id];

    const llama_pos shift = next.n_rebased - seq.numbering.n_rebased;

    blocks[block_of(seq_id)].pos_frozen -= shift;

    for (auto & p : seq.ring_pos) {
        p = p + seq.numbering.n_rebased >= next.first_live ? p - shift : -1;
    }
    seq.numbering = next;

    std::fill(long_pos.begin(), long_pos.end(), -1); // not rotated

    llama_kv_cells res;
    res.resize(n_tail());
    for (uint32_t i = 0; i < n_tail(); ++i) {
        if (cells().is_empty(i)) {
            continue;
        }
        res.pos_set(i, cells().pos_get(i) - (cells().seq_has(i, seq_id) ? shift : 0));
        res.ext_set(i, cells().ext_get(i));
        for (size_t s = 0; s < seqs.size(); ++s) {
            if (cells().seq_has(i, s)) {
                res.seq_add(i, s);
            }
        }
    }
    kv.v_cells[0] = std::move(res);
}

// false: what is left means nothing, and the cache is empty
bool llama_ckv::rebase(llama_seq_id seq_id, const ckv_numbering & next) {
    const no_abort scope(lctx);

    for (size_t i = 0; i < layers.size(); ++i) {
        if (!ckv_turn_layer(*this, i, seq_id, next)) {
            clear(settings.n_tail);
            return false;
        }
    }
    renumber(seq_id, next);
    generation++;
    release_compute();

    return true;
}

//
// C API
//

int32_t llama_ckv_rebase(llama_context * ctx, llama_seq_id seq_id, int32_t n_max) {
    llama_ckv * ckv = nullptr;
    if (const int32_t status = ckv_get_seq(ctx, seq_id, &ckv)) {
        return status;
    }
    ckv->flush();

    auto * swa = ckv_swa(ctx);

    const std::string why = ckv_cannot_rebase(*ctx, swa, seq_id);
    if (!why.empty()) {
        return ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, "positions of sequence " + std::to_string(seq_id) + " cannot be re-based: " + why);
    }

    const llama_pos pos = std::max(ckv->pos_frozen(seq_id), ckv->cells().seq_pos_max(seq_id) + 1);
    if (ckv->block_of(seq_id) < 0) {
        return pos <= n_max ? pos : ckv_fail(LLAMA_CKV_ERR_STATE, "nothing of sequence " + std::to_string(seq_id) + " is compressed yet: compress it first");
    }

    const ckv_numbering next = ckv->close_gaps(swa, seq_id, pos, n_max);

    const llama_pos shift = next.n_rebased - ckv->seqs[seq_id].numbering.n_rebased;
    if (pos - shift > n_max) {
        return ckv_fail(LLAMA_CKV_ERR_ARGUMENT, "n_max is " + std::to_string(n_max) + ", but the tail and the protected tokens of sequence " +
                std::to_string(seq_id) + " take " + std::to_string(pos - shift) + " positions");
    }
    if (shift == 0) {
        return pos; // nothing to close
    }
    if (!ckv->is_alone(seq_id, next) && !ckv->unshare(seq_id, next)) {
        return ckv_fail(LLAMA_CKV_ERR_MEMORY, ckv->n_used() > 0 ? "no memory to re-base the positions; the cache is unchanged" :
                "moving rows failed; the cache is empty, decode the prompt again");
    }
    if (!ckv->rebase(seq_id, next)) {
        return ckv_fail(LLAMA_CKV_ERR_COMPUTE, "rotating the kept keys failed; the cache is empty, decode the prompt again");
    }
    if (swa) {
        swa->seq_add(seq_id, 0, -1, -shift); // rotated by upstream before the next decode
    }

    return pos - shift;
}
