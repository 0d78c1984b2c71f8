// the tensors of the layers: allocating them, moving kept rows between or within them, freeing the old ones

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <exception>
#include <numeric>

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

// ggml copies views of equal shape within a device; for rows that are not made of words, one run of neighbours at a time
static void ckv_copy_runs(ggml_tensor * src, ggml_tensor * dst, const std::vector<int32_t> & rows) {
    for (size_t i = 0; i < rows.size();) {
        size_t n = 1;
        while (i + n < rows.size() && rows[i + n] == rows[i] + (int32_t) n) {
            n++;
        }

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

llama_ckv::no_abort::no_abort(llama_context * lctx) : lctx(lctx) {
    if (lctx) {
        callback = lctx->abort_callback;
        data     = lctx->abort_callback_data;
        lctx->set_abort_callback(nullptr, nullptr);
    }
}

llama_ckv::no_abort::~no_abort() {
    if (lctx) {
        lctx->set_abort_callback(callback, data);
    }
}

//
// moving the kept rows of all layers
//

// a layer whose tensors have the right size already is rearranged in place: memory stays flat from one compression to
// the next. rows that are not made of words cannot be
bool llama_ckv::fits_in_place(int32_t ikv, uint32_t n_rows) const {
    const auto fits = [&](const ggml_tensor * t) { return t->ne[1] == n_rows && t->nb[1] % sizeof(int32_t) == 0; };

    return lctx && fits(tensor_k(ikv)) && fits(tensor_v(ikv));
}

// blocks that nobody sees are left out; of seq_id the cells in `live` stay
ckv_layout llama_ckv::layout_without(llama_seq_id seq_id, const std::vector<uint32_t> & live) const {
    ckv_layout res;
    res.rows.resize(layers.size());

    for (size_t b = 0; b < blocks.size(); ++b) {
        ckv_block block = blocks[b];
        block.seqs.reset(seq_id);
        if (block.seqs.none()) {
            continue;
        }

        std::vector<std::vector<int32_t>> rows(layers.size());
        for (size_t i = 0; i < layers.size(); ++i) {
            rows[i].resize(block.pos[i].size());
            std::iota(rows[i].begin(), rows[i].end(), first_row(i, b));
        }
        add_block(res, std::move(block), rows);
    }

    for (const uint32_t cell : tail_cells(-1)) {
        ckv_cell next = { cell, cells().seq_get_all(cell) };

        next.seqs.reset(seq_id);
        if (std::find(live.begin(), live.end(), cell) != live.end()) {
            next.seqs.set(seq_id);
        }
        if (next.seqs.any()) {
            res.cells.push_back(next);
        }
    }
    return res;
}

void llama_ckv::add_block(ckv_layout & layout, ckv_block block, const std::vector<std::vector<int32_t>> & rows) const {
    layout.blocks.push_back(std::move(block));

    for (size_t i = 0; i < layers.size(); ++i) {
        layout.rows[i].insert(layout.rows[i].end(), rows[i].begin(), rows[i].end());
    }
}

bool llama_ckv::gather(llama_seq_id seq_id, const std::vector<ckv_kept> & kept) {
    const auto own = tail_cells(seq_id);
    const std::vector<uint32_t> live(own.end() - settings.window, own.end());

    ckv_layout layout = layout_without(seq_id, live);

    ckv_block block;
    block.seqs.set(seq_id);
    block.pos_frozen = cells().pos_get(live[0]);
    block.pos.resize(layers.size());

    std::vector<std::vector<int32_t>> rows_new(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        GGML_ASSERT(kept[i].size() >= settings.window && "the window is always kept");

        const auto rows_old = rows(i, seq_id);
        const auto pos_old  = positions(i, seq_id);

        for (size_t j = 0; j + settings.window < kept[i].size(); ++j) {
            rows_new[i] .push_back(rows_old[kept[i][j]]);
            block.pos[i].push_back(pos_old [kept[i][j]]);
        }
    }
    add_block(layout, std::move(block), rows_new);
    layout.n_tail = tail_for(layout, 0);

    return rebuild(layout);
}

// one layer after the other, each old tensor freed before the next new one is allocated: at no time is there more than
// the full cache and one compressed layer
bool llama_ckv::rebuild(const ckv_layout & layout) {
    const no_abort scope(lctx);

    bool moved = false;

    for (size_t i = 0; i < layers.size(); ++i) {
        if (!move_layer(i, layout, moved)) {
            if (moved) {
                clear(settings.n_tail); // layers of different tokens and no common tail: what is left means nothing
            }
            return false;
        }
    }

    blocks = layout.blocks;
    generation++;

    set_cells(layout.cells, layout.n_tail);
    place_tails(layout.n_tail);

    release_compute();

    return true;
}

// moved: set once the layer's old rows are no longer what they were
bool llama_ckv::move_layer(int32_t ikv, const ckv_layout & layout, bool & moved) {
    std::vector<int32_t> rows = layout.rows[ikv];

    const uint32_t n_rows = std::max<uint32_t>(rows.size() + layout.n_tail, n_rows_min(ikv));

    const uint32_t n_old = n_prefix(ikv);
    for (const auto & cell : layout.cells) {
        rows.push_back(n_old + cell.cell);
    }

    if (fits_in_place(ikv, n_rows)) {
        moved = true;
        return fill(ikv, rows, current(ikv));
    }

    ckv_store store;
    if (!alloc(ikv, n_rows, store) || !fill(ikv, rows, store)) {
        return false;
    }
    moved = true;
    install(ikv, store);

    return true;
}
