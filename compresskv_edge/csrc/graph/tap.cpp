// the tap on the queries: the last ones of each sequence are copied to its ring while the model runs

#include "graph/input.h"
#include "upstream/ckv-hooks.h"

#include <algorithm>

// the last tokens of each sequence, up to a window of them
std::vector<ckv_tap> ckv_find_taps(const llama_ckv & ckv, const llama_ubatch & ubatch) {
    std::vector<ckv_tap>  res;
    std::vector<uint32_t> n_found(ckv.seqs.size(), 0);

    for (int32_t i = (int32_t) ubatch.n_tokens - 1; i >= 0; --i) {
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            const llama_seq_id seq_id = ubatch.seq_id[i][s];

            if (n_found[seq_id]++ < ckv.settings.window) {
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

int64_t ckv_count_taps(const llama_ckv & ckv, const llama_ubatch & ubatch) {
    if (ckv_is_reserving(ubatch) || !ckv.several()) {
        return std::min<int64_t>(ubatch.n_tokens, (int64_t) (ckv.settings.window*ckv.seqs.size()));
    }
    return (int64_t) ckv_find_taps(ckv, ubatch).size();
}

// whether the taps are the last tokens, one after the other: always of one sequence, and where several decode together
bool ckv_taps_are_last(const llama_ckv & ckv, const llama_ubatch & ubatch) {
    if (ckv_is_reserving(ubatch) || !ckv.several()) {
        return !ckv.several();
    }
    return ckv_count_taps(ckv, ubatch) == ubatch.n_tokens && std::all_of(ubatch.n_seq_id, ubatch.n_seq_id + ubatch.n_tokens, [](int32_t n) { return n == 1; });
}

int64_t ckv_count_long(const llama_ckv & ckv, const llama_ubatch & ubatch) {
    return std::min<int64_t>(ubatch.n_tokens, ckv.long_ring.size());
}

static ggml_tensor * ckv_new_input(ggml_context * ctx, ggml_type type, int64_t n, const char * name) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx, type, n);
    ggml_set_input(res);
    ggml_set_name(res, name);
    return res;
}

// one set of inputs for all layers
static void ckv_new_tap_inputs(ckv_graph_input & input, ggml_context * ctx, const llama_ubatch & ubatch) {
    const auto & ckv = input.ckv;

    input.tap_rows = ckv_new_input(ctx, GGML_TYPE_I64, ckv_count_taps(ckv, ubatch), "ckv_tap_rows");
    if (!ckv_taps_are_last(ckv, ubatch)) {
        input.tap_tokens = ckv_new_input(ctx, GGML_TYPE_I32, input.tap_rows->ne[0], "ckv_tap_tokens");
    }
    if (ckv.long_ring.size() > 0) {
        input.long_rows = ckv_new_input(ctx, GGML_TYPE_I64, ckv_count_long(ckv, ubatch), "ckv_long_tap");
    }
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
    auto & layer = ckv->layers[ckv->up.cache_layer(il)];

    layer.scale = kq_scale;

    if (!layer.q) {
        return; // a dry run that only measures
    }

    auto & input = ckv_graph_input::of(graph, *ckv);
    if (!input.tap_rows) {
        ckv_new_tap_inputs(input, ctx, graph.ubatch);
    }

    ggml_tensor * last = ckv_last_queries(ctx, q, input.tap_tokens ? graph.n_tokens : input.tap_rows->ne[0]);
    if (input.tap_tokens) {
        last = ggml_get_rows(ctx, last, input.tap_tokens);
    }

    ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, layer.q, last, input.tap_rows));

    if (input.long_rows) {
        ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, layer.q_long, ckv_last_queries(ctx, q, input.long_rows->ne[0]), input.long_rows));
    }
}
