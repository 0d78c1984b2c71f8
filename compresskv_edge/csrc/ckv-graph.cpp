// the two places where the model's graph meets the prefix: the mask in front of the tail, and the tap on the queries

#include "ckv-cache.h"

#include "llama-graph.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

// a leaf of the graph, as upstream's tensor is: devices fuse RoPE with the writing of its rows, unless a view is in between
ggml_tensor * ckv_tail(ggml_context * ctx, const llama_ckv * ckv, int32_t ikv, ggml_tensor * kv) {
    if (!ckv || ckv->n_prefix(ikv) == 0) {
        return kv;
    }

    ggml_tensor * res = ggml_new_tensor_3d(ctx, kv->type, kv->ne[0], ckv->n_tail(), kv->ne[2]);
    res->view_src  = kv;
    res->view_offs = ckv->n_prefix(ikv)*kv->nb[1];
    ggml_backend_view_init(res);

    return res;
}

void ckv_note_k_idxs(llama_ckv * ckv, ggml_tensor * k_idxs) {
    if (ckv) {
        ckv->k_idxs = k_idxs;
    }
}

ggml_tensor * ckv_take_k_idxs(llama_ckv * ckv) {
    return ckv ? std::exchange(ckv->k_idxs, nullptr) : nullptr;
}

static void ckv_hide(ggml_tensor * mask, int64_t column, int64_t row) {
    char * data = (char *) mask->data + row*mask->nb[1] + column*mask->nb[0];

    if (mask->type == GGML_TYPE_F16) {
        *(ggml_fp16_t *) data = ggml_fp32_to_fp16(-INFINITY);
    } else {
        *(float *) data = -INFINITY;
    }
}

void ckv_extend_mask(const llama_ckv * ckv, ggml_tensor * dst, int64_t n_kv, const llama_ubatch * ubatch) {
    if (dst->ne[0] == n_kv) {
        return;
    }
    const size_t n_prefix = ckv->n_prefix_columns();

    const size_t size = ggml_type_size(dst->type); // f16 or f32: zero is all bits zero in both
    const size_t tail = n_kv*size;

    char * data = (char *) dst->data;

    // from the last row on, so that no row is overwritten before it moved
    for (int64_t i = ggml_nrows(dst) - 1; i >= 0; --i) {
        char * row = data + i*dst->nb[1];

        memmove(row + n_prefix*size, data + i*tail, tail);
        memset (row, 0, n_prefix*size);

        for (size_t b = 0; ckv->several() && b < n_prefix; ++b) { // a column is a block
            if (!ckv->blocks[b].seqs.test(ubatch->seq_id[i][0])) {
                ckv_hide(dst, b, i);
            }
        }
        for (int64_t j = n_prefix + n_kv; j < dst->ne[0]; ++j) {
            ckv_hide(dst, j, i);
        }
    }
}

// device kernels read a mask in words, from where a buffer may start; a CPU reads it float by float
bool llama_ckv::is_aligned(const ggml_tensor & view, int32_t ikv) const {
    auto * buf = tensor_k(ikv)->buffer;
    if (!buf) {
        return true; // a dry run that only measures
    }
    auto * buft = ggml_backend_buffer_get_type(buf);

    return ggml_backend_buft_is_host(buft) || view.view_offs % ggml_backend_buft_get_alignment(buft) == 0;
}

// the mask on the device of a layer: one input of its graph, as without a prefix. each view of an input would be another
// one, copied from the host for every layer, and beyond 30 of them ggml cuts the graph
static ggml_tensor * ckv_mask_there(ggml_context * ctx, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t ikv) {
    const auto buft_of = [&](int32_t i) { return ggml_backend_buffer_get_type(ckv->tensor_k(i)->buffer); };

    if (!ckv->tensor_k(ikv)->buffer || ggml_backend_buft_is_host(buft_of(ikv))) {
        return kq_mask;
    }
    for (const auto & [other, mask] : ckv->masks) {
        if (buft_of(other) == buft_of(ikv)) {
            return mask;
        }
    }
    return ckv->masks.emplace_back(ikv, ggml_cont(ctx, kq_mask)).second;
}

// one sequence: all rows of the prefix are seen by all tokens
static ggml_tensor * ckv_mask_of_one(ggml_context * ctx, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t ikv) {
    if (ikv == 0) {
        ckv->masks.clear();
    }
    const int64_t n_skip = ckv->max_prefix() - ckv->n_prefix(ikv);
    const int64_t n_rows = kq_mask->ne[0] - n_skip - (ckv->max_filler() - ckv->n_filler(ikv));
    if (n_rows == kq_mask->ne[0]) {
        return kq_mask;
    }
    kq_mask = ckv_mask_there(ctx, ckv, kq_mask, ikv);

    // of a single row the stride does not matter, but kernels ask for a multiple of 16
    const size_t nb1 = kq_mask->ne[1] == 1 ? n_rows*kq_mask->nb[0] : kq_mask->nb[1];

    ggml_tensor * res = ggml_view_2d(ctx, kq_mask, n_rows, kq_mask->ne[1], nb1, n_skip*kq_mask->nb[0]);

    return ggml_is_contiguous(res) && ckv->is_aligned(*res, ikv) ? res : ggml_cont(ctx, res); // flash attention reads whole rows
}

static bool ckv_same_rows(const llama_ckv * ckv, int32_t a, int32_t b) {
    return ckv->n_filler(a) == ckv->n_filler(b) && std::all_of(ckv->blocks.begin(), ckv->blocks.end(), [=](const ckv_block & block) { return block.pos[a].size() == block.pos[b].size(); });
}

// several: each row of the layer picks the column of its block or cell. layers with as many rows share the result
static ggml_tensor * ckv_mask_of_several(ggml_context * ctx, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t ikv) {
    if (ckv->blocks.empty()) {
        return kq_mask;
    }
    if (ikv == 0) {
        ckv->masks.clear();
        ckv->mask_t = ggml_cont(ctx, ggml_transpose(ctx, kq_mask)); // [n_tokens, columns]
    }
    for (const auto & [other, mask] : ckv->masks) {
        if (ckv_same_rows(ckv, other, ikv)) {
            return mask;
        }
    }

    const int64_t n_kv   = kq_mask->ne[0] - ckv->blocks.size() - ckv->max_filler();
    const int64_t n_rows = ckv->n_prefix(ikv) + n_kv + ckv->n_filler(ikv);

    ggml_tensor * columns = ggml_view_1d(ctx, ckv->layers[ikv].columns, n_rows, 0);
    ggml_tensor * res     = ggml_get_rows(ctx, ckv->mask_t, columns); // [n_tokens, n_rows] f32

    res = ggml_cast(ctx, ggml_transpose(ctx, res), kq_mask->type);
    ckv->masks.emplace_back(ikv, res);

    return res;
}

ggml_tensor * ckv_build_mask(ggml_context * ctx, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t il) {
    if (!ckv) {
        return kq_mask;
    }
    const int32_t ikv = ckv->cache_layer(il);

    return ckv->several() ? ckv_mask_of_several(ctx, ckv, kq_mask, ikv) : ckv_mask_of_one(ctx, ckv, kq_mask, ikv);
}

// where the last queries of a micro-batch go in the rings
struct ckv_tap {
    int32_t      token;
    llama_seq_id seq_id;
    llama_pos    pos;
};

// the last tokens of each sequence, up to a window of them
static std::vector<ckv_tap> ckv_find_taps(const llama_ckv * ckv, const llama_ubatch & ubatch) {
    std::vector<ckv_tap>  res;
    std::vector<uint32_t> n_found(ckv->seqs.size(), 0);

    for (int32_t i = (int32_t) ubatch.n_tokens - 1; i >= 0; --i) {
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            const llama_seq_id seq_id = ubatch.seq_id[i][s];

            if (n_found[seq_id]++ < ckv->settings.window) {
                res.push_back({ i, seq_id, ubatch.pos[i] });
            }
        }
    }

    return res;
}

// graphs are reserved with a micro-batch that has no sequences yet
static bool ckv_is_reserving(const llama_ubatch & ubatch) {
    return !ubatch.seq_id[0];
}

static int64_t ckv_count_taps(const llama_ckv * ckv, const llama_ubatch & ubatch) {
    return ckv_is_reserving(ubatch) || !ckv->several() ? std::min<int64_t>(ubatch.n_tokens, ckv->settings.window*ckv->seqs.size()) : ckv_find_taps(ckv, ubatch).size();
}

// whether the taps are the last tokens, one after the other: always of one sequence, and where several decode together
static bool ckv_taps_are_last(const llama_ckv * ckv, const llama_ubatch & ubatch) {
    if (ckv_is_reserving(ubatch) || !ckv->several()) {
        return !ckv->several();
    }
    return ckv_count_taps(ckv, ubatch) == ubatch.n_tokens && std::all_of(ubatch.n_seq_id, ubatch.n_seq_id + ubatch.n_tokens, [](int32_t n) { return n == 1; });
}

static int64_t ckv_count_long(const llama_ckv * ckv, const llama_ubatch & ubatch) {
    return std::min<int64_t>(ubatch.n_tokens, ckv->long_pos.size());
}

class ckv_graph_input_tap : public llm_graph_input_i {
public:
    ckv_graph_input_tap(llama_ckv * ckv, ggml_tensor * tokens, ggml_tensor * rows, ggml_tensor * long_rows) :
        ckv(ckv), tokens(tokens), rows(rows), long_rows(long_rows), generation(ckv->generation) {}

    void set_input(const llama_ubatch * ubatch) override {
        const auto taps = ckv_find_taps(ckv, *ubatch);

        std::vector<int32_t> data_tokens;
        std::vector<int64_t> data_rows;

        for (auto tap = taps.rbegin(); tap != taps.rend(); ++tap) {
            data_tokens.push_back(tap->token);
            data_rows  .push_back(ckv->ring_row(tap->seq_id, tap->pos));

            ckv->seqs[tap->seq_id].ring_pos[tap->pos % ckv->settings.window] = tap->pos;
        }

        if (tokens) {
            ggml_backend_tensor_set(tokens, data_tokens.data(), 0, ggml_nbytes(tokens));
        }
        ggml_backend_tensor_set(rows, data_rows.data(), 0, ggml_nbytes(rows));

        if (long_rows) {
            set_long_rows(*ubatch);
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        return generation == ckv->generation && rows->ne[0] == ckv_count_taps(ckv, params.ubatch) && !tokens == ckv_taps_are_last(ckv, params.ubatch) &&
            (!long_rows || long_rows->ne[0] == ckv_count_long(ckv, params.ubatch));
    }

private:
    void set_long_rows(const llama_ubatch & ubatch) {
        const int64_t n = long_rows->ne[0];

        std::vector<int64_t> data;
        for (uint32_t i = ubatch.n_tokens - n; i < ubatch.n_tokens; ++i) {
            data.push_back(ubatch.pos[i] % ckv->long_pos.size());
            ckv->long_pos[data.back()] = ubatch.pos[i];
        }
        ggml_backend_tensor_set(long_rows, data.data(), 0, ggml_nbytes(long_rows));
    }

    llama_ckv   * ckv;
    ggml_tensor * tokens; // I32 [n], null: the last n
    ggml_tensor * rows;   // I64 [n]

    ggml_tensor * long_rows; // I64 [n_long or fewer], null: nobody asked for them

    const uint64_t generation;
};

static ggml_tensor * ckv_new_input(ggml_context * ctx, ggml_type type, int64_t n, const char * name) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx, type, n);
    ggml_set_input(res);
    ggml_set_name(res, name);
    return res;
}

// q: [n_embd_head, n_head, n_tokens] -> the last n tokens, heads merged
static ggml_tensor * ckv_last_queries(ggml_context * ctx, ggml_tensor * q, int64_t n) {
    ggml_tensor * res = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], n, q->nb[1], q->nb[2], (q->ne[2] - n)*q->nb[2]);

    return ggml_is_contiguous(res) ? ggml_reshape_2d(ctx, res, q->ne[0]*q->ne[1], n) : ggml_cont_2d(ctx, res, q->ne[0]*q->ne[1], n);
}

void ckv_build_tap(const llm_graph_context & graph, llama_ckv * ckv, ggml_tensor * q, float kq_scale, int32_t il) {
    if (!ckv) {
        return;
    }

    auto * ctx   = graph.ctx0;
    auto & layer = ckv->layers[ckv->cache_layer(il)];

    layer.scale = kq_scale;

    if (!layer.q) {
        return; // a dry run that only measures
    }

    const int64_t n = ckv_count_taps(ckv, graph.ubatch);

    if (&layer == &ckv->layers.front()) { // one input for all layers
        ckv->tap_rows   = ckv_new_input(ctx, GGML_TYPE_I64, n, "ckv_tap_rows");
        ckv->tap_tokens = ckv_taps_are_last(ckv, graph.ubatch) ? nullptr : ckv_new_input(ctx, GGML_TYPE_I32, n, "ckv_tap_tokens");
        ckv->long_tap   = layer.q_long ? ckv_new_input(ctx, GGML_TYPE_I64, ckv_count_long(ckv, graph.ubatch), "ckv_long_tap") : nullptr;

        graph.res->add_input(std::make_unique<ckv_graph_input_tap>(ckv, ckv->tap_tokens, ckv->tap_rows, ckv->long_tap));
    }

    ggml_tensor * last = ckv_last_queries(ctx, q, ckv->tap_tokens ? graph.n_tokens : n);
    if (ckv->tap_tokens) {
        last = ggml_get_rows(ctx, last, ckv->tap_tokens);
    }

    ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, layer.q, last, ckv->tap_rows));

    if (ckv->long_tap) {
        ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, layer.q_long, ckv_last_queries(ctx, q, ckv->long_tap->ne[0]), ckv->long_tap));
    }
}
