// the tensors of the layers: allocating them, moving kept rows between or within them, freeing the old ones

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <exception>

#ifdef __GLIBC__
#include <malloc.h>
#endif

bool llama_ckv::alloc(int32_t ikv, uint32_t n_rows, ckv_store & store) const {
    ggml_init_params params = {
        /*.mem_size   =*/ 6*ggml_tensor_overhead(),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    store.ctx.reset(ggml_init(params));

    auto * ctx = store.ctx.get();

    const ggml_tensor * k = tensor_k(ikv);
    const ggml_tensor * v = tensor_v(ikv);

    store.k = ggml_new_tensor_3d(ctx, k->type, k->ne[0], n_rows, 1);
    store.v = ggml_new_tensor_3d(ctx, v->type, v->ne[0], n_rows, 1);
    store.q = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, (int64_t) kv.hparams.n_embd_head_k(model_layer(ikv))*n_head(ikv), settings.window*seqs.size());

    store.k_tail = ggml_view_2d(ctx, store.k, k->ne[0], n_rows, store.k->nb[1], 0);
    store.v_tail = ggml_view_2d(ctx, store.v, v->ne[0], n_rows, store.v->nb[1], 0);

    if (several()) {
        store.columns = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_rows);
        ggml_format_name(store.columns, "cache_columns_l%d", model_layer(ikv));
    }

    ggml_format_name(store.k, "cache_k_l%d", model_layer(ikv));
    ggml_format_name(store.v, "cache_v_l%d", model_layer(ikv));
    ggml_format_name(store.q, "cache_q_l%d", model_layer(ikv));

    store.buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx, ggml_backend_buffer_get_type(k->buffer)));
    if (!store.buf) {
        LLAMA_LOG_ERROR("%s: failed to allocate %u rows of layer %d\n", __func__, n_rows, model_layer(ikv));
        return false;
    }

    ggml_backend_buffer_clear(store.buf.get(), 0); // masked rows must not hold NaN

    return true;
}

// a view of the tail's rows, for what upstream saves and restores; `view` is reused when the prefix changes
static void ckv_place_view(ggml_tensor * view, ggml_tensor * t, uint32_t n_prefix, uint32_t n_tail) {
    view->view_offs = n_prefix*t->nb[1];
    view->data      = (char *) t->data + view->view_offs;
    view->ne[1]     = n_tail;
    view->nb[2]     = view->nb[3] = n_tail*t->nb[1];
}

void llama_ckv::place_tails(uint32_t n_tail) {
    for (size_t i = 0; i < layers.size(); ++i) {
        auto & layer = kv.layers[i];

        ckv_place_view(layer.k_stream[0], layer.k, n_prefix(i), n_tail);
        ckv_place_view(layer.v_stream[0], layer.v, n_prefix(i), n_tail);

        place_columns(i);
    }
}

// which column of the mask says whether a token sees this row: one a block, then one a cell
void llama_ckv::place_columns(int32_t ikv) {
    ggml_tensor * columns = layers[ikv].columns;
    if (!columns) {
        return;
    }

    std::vector<int32_t> data;
    for (size_t b = 0; b < blocks.size(); ++b) {
        data.insert(data.end(), blocks[b].pos[ikv].size(), b);
    }
    for (int32_t j = 0; (int64_t) data.size() < columns->ne[0]; ++j) {
        data.push_back(blocks.size() + j);
    }

    ggml_backend_tensor_set(columns, data.data(), 0, ggml_nbytes(columns));
}

// the layer takes the store, its old tensors are freed
void llama_ckv::install(int32_t ikv, ckv_store & store) {
    auto & layer = kv.layers[ikv];

    // both are there now
    bytes_peak = std::max(bytes_peak, kv_bytes() + ggml_backend_buffer_get_size(store.buf.get()) - ggml_nbytes(store.q));

    layer.k = store.k;
    layer.v = store.v;
    layer.k_stream = { store.k_tail };
    layer.v_stream = { store.v_tail };

    layers[ikv].q       = store.q;
    layers[ikv].columns = store.columns;

    kv.ctxs_bufs[ikv] = { std::move(store.ctx), std::move(store.buf) };
    generation++;
}

// rows of a tensor as rows of 4-byte words: moved, never decoded
static ggml_tensor * ckv_as_words(ggml_context * ctx, ggml_tensor * t, int64_t n_rows) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, t->nb[1]/sizeof(int32_t), n_rows);
    res->view_src = t;
    ggml_backend_view_init(res);
    return res;
}

size_t ckv_run_length(const std::vector<int32_t> & rows, size_t first) {
    size_t n = 1;
    while (first + n < rows.size() && rows[first + n] == rows[first] + (int32_t) n) {
        n++;
    }
    return n;
}

// ggml copies views of equal shape within a device; for rows that are not made of words, one run of neighbours at a time
static void ckv_copy_runs(ggml_tensor * src, ggml_tensor * dst, const std::vector<int32_t> & rows) {
    for (size_t i = 0; i < rows.size();) {
        const size_t n = ckv_run_length(rows, i);

        ggml_init_params params = { 2*ggml_tensor_overhead(), NULL, true };
        ggml_context_ptr ctx { ggml_init(params) };

        ggml_tensor * from = ggml_view_2d(ctx.get(), src, src->ne[0], n, src->nb[1], rows[i]*src->nb[1]);
        ggml_tensor * to   = ggml_view_2d(ctx.get(), dst, dst->ne[0], n, dst->nb[1],       i*dst->nb[1]);
        ggml_backend_view_init(from);
        ggml_backend_view_init(to);
        ggml_backend_tensor_copy(from, to);

        i += n;
    }
}

static bool ckv_is_one_run(const std::vector<int32_t> & rows) {
    return rows.empty() || rows.back() - rows.front() + 1 == (int32_t) rows.size();
}

ckv_store llama_ckv::current(int32_t ikv) const {
    ckv_store res;
    res.k = tensor_k(ikv);
    res.v = tensor_v(ikv);
    res.q = layers[ikv].q;
    return res;
}

// the given rows of a layer become rows 0, 1, ... of a store, which may be the one that they are in; the ring of queries
// comes along
bool llama_ckv::fill(int32_t ikv, const std::vector<int32_t> & rows, const ckv_store & store) {
    const std::pair<ggml_tensor *, ggml_tensor *> moves[] = { { tensor_k(ikv), store.k }, { tensor_v(ikv), store.v } };

    const bool in_place = store.q == layers[ikv].q;
    if (!in_place) {
        ggml_backend_tensor_copy(layers[ikv].q, store.q);
    }

    if (rows.empty()) {
        return true;
    }

    ckv_graph graph(*this, 16);

    ggml_tensor * idx = graph.input_i32("ckv_rows", rows.size());

    for (const auto & [src, dst] : moves) {
        if (!in_place && (ckv_is_one_run(rows) || src->nb[1] % sizeof(int32_t) != 0 || !lctx)) {
            ckv_copy_runs(src, dst, rows);
            continue;
        }

        auto * ctx  = graph.ctx.get();
        auto * from = ggml_get_rows(ctx, ckv_as_words(ctx, src, src->ne[1]), idx);

        ggml_build_forward_expand(graph.gf, ggml_cpy(ctx, from, ckv_as_words(ctx, dst, rows.size())));
    }

    if (ggml_graph_n_nodes(graph.gf) == 0) {
        return true;
    }

    if (!graph.alloc()) {
        return false;
    }
    ggml_backend_tensor_set(idx, rows.data(), 0, ggml_nbytes(idx));

    return graph.compute();
}

// a tensor and a buffer of its own for each layer, behind those of the layers: upstream counts and frees them
bool llama_ckv::keep_queries(uint32_t n_tokens) {
    for (auto & layer : layers) {
        layer.q_long = nullptr;
    }
    kv.ctxs_bufs.resize(layers.size());
    long_pos.clear();
    generation++;

    for (size_t i = 0; i < layers.size() && n_tokens > 0; ++i) {
        ggml_init_params params = { ggml_tensor_overhead(), NULL, true };
        ggml_context_ptr ctx { ggml_init(params) };

        ggml_tensor * q = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, layers[i].q->ne[0], n_tokens);
        ggml_format_name(q, "cache_q_long_l%d", model_layer(i));

        ggml_backend_buffer_ptr buf { ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), ggml_backend_buffer_get_type(layers[i].q->buffer)) };
        if (!buf) {
            keep_queries(0);
            return false;
        }
        layers[i].q_long = q;
        kv.ctxs_bufs.emplace_back(std::move(ctx), std::move(buf));
    }
    long_pos.assign(n_tokens, -1);
    release_compute();

    return true;
}

// the compute buffers were sized for the whole prompt: back to the size that the compressed cache needs
void llama_ckv::release_compute() {
    if (!lctx) {
        return; // a state restored into a new context: nothing ran yet
    }

    lctx->sched_need_reserve = true;
    try {
        lctx->sched_reserve();
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        lctx->sched_need_reserve = true; // the next decode tries again, and reports it if it fails
    }

#ifdef __GLIBC__
    malloc_trim(0); // blocks under glibc's mmap threshold stay resident otherwise
#endif
}
