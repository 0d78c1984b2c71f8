// the two places where the model's graph meets the prefix: the mask in front of the tail, and the tap on the queries

#include "ckv-cache.h"

#include "llama-graph.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cstring>

ggml_tensor * ckv_tail(ggml_context * ctx, const llama_ckv * ckv, int32_t ikv, ggml_tensor * kv) {
    if (!ckv || ckv->n_prefix(ikv) == 0) {
        return kv;
    }

    return ggml_view_3d(ctx, kv, kv->ne[0], ckv->n_tail(), kv->ne[2], kv->nb[1], kv->nb[2], ckv->n_prefix(ikv)*kv->nb[1]);
}

void ckv_prepend_prefix(ggml_tensor * dst, int64_t n_kv) {
    const size_t n_prefix = dst->ne[0] - n_kv;
    if (n_prefix == 0) {
        return;
    }

    const size_t size = ggml_type_size(dst->type); // f16 or f32: zero is all bits zero in both
    const size_t tail = n_kv*size;

    char * data = (char *) dst->data;

    // from the last row on, so that no row is overwritten before it moved
    for (int64_t i = ggml_nrows(dst) - 1; i >= 0; --i) {
        char * row = data + i*dst->nb[1];

        memmove(row + n_prefix*size, data + i*tail, tail);
        memset (row, 0, n_prefix*size);
    }
}

// device kernels read a mask in words, from where a buffer may start; a CPU reads it float by float
bool llama_ckv::is_aligned(const ggml_tensor & view, int32_t il) const {
    auto * buf = tensor_k(cache_layer(il))->buffer;
    if (!buf) {
        return true; // a dry run that only measures
    }
    auto * buft = ggml_backend_buffer_get_type(buf);

    return ggml_backend_buft_is_host(buft) || view.view_offs % ggml_backend_buft_get_alignment(buft) == 0;
}

ggml_tensor * ckv_build_mask(ggml_context * ctx, const llama_ckv * ckv, ggml_tensor * kq_mask, int32_t il) {
    const int64_t n_skip = ckv ? ckv->max_prefix() - ckv->n_prefix(ckv->cache_layer(il)) : 0;
    if (n_skip == 0) {
        return kq_mask;
    }

    ggml_tensor * res = ggml_view_2d(ctx, kq_mask, kq_mask->ne[0] - n_skip, kq_mask->ne[1], kq_mask->nb[1], n_skip*kq_mask->nb[0]);

    return ggml_is_contiguous(res) && ckv->is_aligned(*res, il) ? res : ggml_cont(ctx, res); // flash attention reads whole rows
}

// where the last queries of a micro-batch go in the ring
class ckv_graph_input_tap : public llm_graph_input_i {
public:
    ckv_graph_input_tap(llama_ckv * ckv, ggml_tensor * rows) : ckv(ckv), rows(rows), generation(ckv->generation) {}

    void set_input(const llama_ubatch * ubatch) override {
        const int64_t n = rows->ne[0];

        std::vector<int64_t> data(n);
        for (int64_t i = 0; i < n; ++i) {
            const llama_pos pos = ubatch->pos[ubatch->n_tokens - n + i];

            data[i] = pos % ckv->settings.window;
            ckv->ring_pos[data[i]] = pos;
        }

        ggml_backend_tensor_set(rows, data.data(), 0, ggml_nbytes(rows));
    }

    bool can_reuse(const llm_graph_params & params) override {
        return generation == ckv->generation && rows->ne[0] == std::min<int64_t>(params.ubatch.n_tokens, ckv->settings.window);
    }

private:
    llama_ckv   * ckv;
    ggml_tensor * rows; // I64 [min(n_tokens, window)]

    const uint64_t generation;
};

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

    const int64_t n = std::min<int64_t>(graph.n_tokens, ckv->settings.window);

    if (&layer == &ckv->layers.front()) { // one input for all layers
        ckv->tap_rows = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n);
        ggml_set_input(ckv->tap_rows);
        ggml_set_name(ckv->tap_rows, "ckv_tap_rows");

        graph.res->add_input(std::make_unique<ckv_graph_input_tap>(ckv, ckv->tap_rows));
    }

    // q: [n_embd_head, n_head, n_tokens] -> the last n tokens, heads merged
    ggml_tensor * last = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], n, q->nb[1], q->nb[2], (graph.n_tokens - n)*q->nb[2]);
    last = ggml_is_contiguous(last) ? ggml_reshape_2d(ctx, last, layer.q->ne[0], n) : ggml_cont_2d(ctx, last, layer.q->ne[0], n);

    ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, layer.q, last, ckv->tap_rows));
}
