// the mask: columns of the prefix in front of those of the tail, and what each layer makes of them

#include "graph/input.h"
#include "upstream/ckv-hooks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// a leaf of the graph, as upstream's tensor is: devices fuse RoPE with the writing of its rows, unless a view is in between
ggml_tensor * ckv_tail(ggml_context * ctx, const llama_ckv * ckv, int32_t ikv, ggml_tensor * kv) {
    if (!ckv || ckv->prefix.n_rows(ikv) == 0) {
        return kv;
    }

    ggml_tensor * res = ggml_new_tensor_3d(ctx, kv->type, kv->ne[0], ckv->up.n_tail(), kv->ne[2]);
    res->view_src  = kv;
    res->view_offs = ckv->prefix.n_rows(ikv)*kv->nb[1];
    ggml_backend_view_init(res);

    return res;
}

uint32_t ckv_more_rows(const llama_ckv * ckv, int32_t ikv) {
    return ckv ? ckv->prefix.n_rows(ikv) + ckv->n_filler(ikv) : 0;
}

uint32_t ckv_more_columns(const llama_ckv * ckv) {
    return ckv ? ckv->n_columns() + ckv->max_filler() : 0;
}

//
// its values
//

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
    const int64_t n_prefix = ckv->n_columns();

    const size_t size = ggml_type_size(dst->type); // f16 or f32: zero is all bits zero in both
    const size_t tail = n_kv*size;

    char * data = (char *) dst->data;

    // from the last row on, so that no row is overwritten before it moved
    for (int64_t i = ggml_nrows(dst) - 1; i >= 0; --i) {
        char * row = data + i*dst->nb[1];

        memmove(row + n_prefix*size, data + i*tail, tail);
        memset (row, 0, n_prefix*size);

        for (int64_t b = 0; ckv->several() && b < n_prefix; ++b) { // a column is a block
            if (!ckv->prefix.blocks[b].seqs.test(ubatch->seq_id[i][0])) {
                ckv_hide(dst, b, i);
            }
        }
        for (int64_t j = n_prefix + n_kv; j < dst->ne[0]; ++j) {
            ckv_hide(dst, j, i);
        }
    }
}

//
// its views
//

// null in a dry run that only measures
static ggml_backend_buffer_type_t ckv_buft_of(const llama_ckv & ckv, int32_t ikv) {
    auto * buf = ckv.up.k(ikv)->buffer;
    return buf ? ggml_backend_buffer_get_type(buf) : nullptr;
}

// device kernels read a mask in words, from where a buffer may start; a CPU reads it float by float
static bool ckv_is_aligned(const llama_ckv & ckv, const ggml_tensor & view, int32_t ikv) {
    auto * buft = ckv_buft_of(ckv, ikv);

    return !buft || ggml_backend_buft_is_host(buft) || view.view_offs % ggml_backend_buft_get_alignment(buft) == 0;
}

// the mask on the device of a layer: one input of its graph, as without a prefix. each view of an input would be another
// one, copied from the host for every layer, and beyond 30 of them ggml cuts the graph
static ggml_tensor * ckv_mask_there(ggml_context * ctx, ckv_graph_input & input, ggml_tensor * kq_mask, int32_t ikv) {
    auto * buft = ckv_buft_of(input.ckv, ikv);

    if (!buft || ggml_backend_buft_is_host(buft)) {
        return kq_mask;
    }
    for (const auto & [other, mask] : input.masks) {
        if (ckv_buft_of(input.ckv, other) == buft) {
            return mask;
        }
    }
    return input.masks.emplace_back(ikv, ggml_cont(ctx, kq_mask)).second;
}

// one sequence: all rows of the prefix are seen by all tokens
static ggml_tensor * ckv_mask_of_one(ggml_context * ctx, ckv_graph_input & input, ggml_tensor * kq_mask, int32_t ikv) {
    const auto & ckv = input.ckv;

    const int64_t n_skip = ckv.max_prefix() - ckv.prefix.n_rows(ikv);
    const int64_t n_rows = kq_mask->ne[0] - n_skip - (ckv.max_filler() - ckv.n_filler(ikv));
    if (n_rows == kq_mask->ne[0]) {
        return kq_mask;
    }
    kq_mask = ckv_mask_there(ctx, input, kq_mask, ikv);

    // of a single row the stride does not matter, but kernels ask for a multiple of 16
    const size_t nb1 = kq_mask->ne[1] == 1 ? n_rows*kq_mask->nb[0] : kq_mask->nb[1];

    ggml_tensor * res = ggml_view_2d(ctx, kq_mask, n_rows, kq_mask->ne[1], nb1, n_skip*kq_mask->nb[0]);

    return ggml_is_contiguous(res) && ckv_is_aligned(ckv, *res, ikv) ? res : ggml_cont(ctx, res); // flash attention reads whole rows
}

// several: each row of the layer picks the column of its block or cell. layers with as many rows share the result
static ggml_tensor * ckv_mask_of_several(ggml_context * ctx, ckv_graph_input & input, ggml_tensor * kq_mask, int32_t ikv) {
    const auto & ckv = input.ckv;

    if (ckv.prefix.empty()) {
        return kq_mask;
    }
    for (const auto & [other, mask] : input.masks) {
        if (ckv.n_filler(other) == ckv.n_filler(ikv) && ckv.prefix.same_rows(other, ikv)) {
            return mask;
        }
    }
    if (!input.mask_t) {
        input.mask_t = ggml_cont(ctx, ggml_transpose(ctx, kq_mask)); // [n_tokens, columns]
    }

    const int64_t n_kv   = kq_mask->ne[0] - ckv_more_columns(&ckv);
    const int64_t n_rows = n_kv + ckv_more_rows(&ckv, ikv);

    ggml_tensor * columns = ggml_view_1d(ctx, ckv.layers[ikv].columns, n_rows, 0);
    ggml_tensor * res     = ggml_get_rows(ctx, input.mask_t, columns); // [n_tokens, n_rows] f32

    res = ggml_cast(ctx, ggml_transpose(ctx, res), kq_mask->type);
    input.masks.emplace_back(ikv, res);

    return res;
}

ggml_tensor * ckv_build_mask(const llm_graph_context & graph, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t il) {
    if (!ckv) {
        return kq_mask;
    }
    auto & input = ckv_graph_input::of(graph, *ckv);

    const int32_t ikv = ckv->up.cache_layer(il);

    return ckv->several() ? ckv_mask_of_several(graph.ctx0, input, kq_mask, ikv) : ckv_mask_of_one(graph.ctx0, input, kq_mask, ikv);
}
