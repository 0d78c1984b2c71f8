#include "cache/rows.h"

#include "core/fault.h"
#include "graph/move.h"

#include "llama-impl.h"

#include <algorithm>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

static ggml_context_ptr ckv_new_context(size_t n_tensors) {
    ggml_init_params params = {
        /*.mem_size   =*/ n_tensors*ggml_tensor_overhead(),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    return ggml_context_ptr { ggml_init(params) };
}

// all tensors of a context, where `beside` is; null: no memory
static ggml_backend_buffer_ptr ckv_alloc_buffer(ggml_context * ctx, const ggml_tensor * beside) {
    if (ckv_fault()) {
        return nullptr;
    }
    return ggml_backend_buffer_ptr { ggml_backend_alloc_ctx_tensors_from_buft(ctx, ggml_backend_buffer_get_type(beside->buffer)) };
}

static void ckv_new_tensors(const llama_ckv & ckv, int32_t ikv, uint32_t n_rows, ckv_store & store) {
    auto * ctx = store.ctx.get();

    const int32_t       il = ckv.up.model_layer(ikv);
    const ggml_tensor * k  = ckv.up.k(ikv);
    const ggml_tensor * v  = ckv.up.v(ikv);

    store.k = ggml_new_tensor_3d(ctx, k->type, k->ne[0], n_rows, 1);
    store.v = ggml_new_tensor_3d(ctx, v->type, v->ne[0], n_rows, 1);
    store.q = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, ckv.up.n_embd_q(ikv), (int64_t) (ckv.settings.window*ckv.seqs.size()));

    store.k_tail = ggml_view_2d(ctx, store.k, k->ne[0], n_rows, store.k->nb[1], 0);
    store.v_tail = ggml_view_2d(ctx, store.v, v->ne[0], n_rows, store.v->nb[1], 0);

    if (ckv.several()) {
        store.columns = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_rows);
        ggml_format_name(store.columns, "cache_columns_l%d", il);
    }

    ggml_format_name(store.k, "cache_k_l%d", il);
    ggml_format_name(store.v, "cache_v_l%d", il);
    ggml_format_name(store.q, "cache_q_l%d", il);
}

bool ckv_alloc(const llama_ckv & ckv, int32_t ikv, uint32_t n_rows, ckv_store & store) {
    store.ctx = ckv_new_context(6);

    ckv_new_tensors(ckv, ikv, n_rows, store);

    store.buf = ckv_alloc_buffer(store.ctx.get(), ckv.up.k(ikv));
    if (!store.buf) {
        LLAMA_LOG_ERROR("%s: failed to allocate %u rows of layer %d\n", __func__, n_rows, ckv.up.model_layer(ikv));
        return false;
    }

    ggml_backend_buffer_clear(store.buf.get(), 0); // masked rows must not hold NaN

    return true;
}

void ckv_install(llama_ckv & ckv, int32_t ikv, ckv_store & store) {
    auto & layer = ckv.layers[ikv];

    // both are there now
    ckv.bytes_peak = std::max(ckv.bytes_peak, ckv.kv_bytes() + ggml_backend_buffer_get_size(store.buf.get()) - ggml_nbytes(store.q));

    layer.q       = store.q;
    layer.columns = store.columns;

    ckv.up.install(ikv, store);
    ckv.generation++;
}

// a layer whose tensors have the right size already is rearranged in place: memory stays flat from one compression to
// the next
static bool ckv_fits_in_place(const llama_ckv & ckv, int32_t ikv, uint32_t n_rows) {
    const auto fits = [&](const ggml_tensor * t) { return t->ne[1] == n_rows && ckv_is_made_of_words(t); };

    return ckv.up.lctx && fits(ckv.up.k(ikv)) && fits(ckv.up.v(ikv));
}

bool ckv_move_layer(llama_ckv & ckv, int32_t ikv, const std::vector<int32_t> & rows, uint32_t n_rows, bool & moved) {
    ggml_tensor * k = ckv.up.k(ikv);
    ggml_tensor * v = ckv.up.v(ikv);

    if (ckv_fits_in_place(ckv, ikv, n_rows)) {
        moved = true;
        return ckv_move_rows(ckv, { { k, k }, { v, v } }, rows);
    }

    ckv_store store;
    if (!ckv_alloc(ckv, ikv, n_rows, store)) {
        return false;
    }
    ggml_backend_tensor_copy(ckv.layers[ikv].q, store.q);

    if (!ckv_move_rows(ckv, { { k, store.k }, { v, store.v } }, rows)) {
        return false;
    }
    moved = true;
    ckv_install(ckv, ikv, store);

    return true;
}

static bool ckv_replace_tensors(llama_ckv & ckv, const std::vector<uint32_t> & n_rows) {
    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        if (ckv.up.k(i)->ne[1] == n_rows[i]) {
            continue;
        }

        bool moved = false;
        if (!ckv_move_layer(ckv, i, ckv_run(0, ckv.prefix.n_rows(i) + ckv.up.n_tail()), n_rows[i], moved)) {
            return false;
        }
    }
    return true;
}

// of one row if memory is gone: decoding lets it grow again
struct ckv_places_tails {
    llama_ckv & ckv;

    ~ckv_places_tails() { ckv_place_tails(ckv); }
};

bool ckv_resize_rows(llama_ckv & ckv, const std::vector<uint32_t> & n_rows) {
    const ckv_places_tails at_end { ckv };
    const uint32_t         n_tail_before = ckv.up.n_tail();

    const bool empty = ckv.up.n_used() == 0 && ckv.prefix.empty();
    bool ok = true;

    if (empty) { // nothing to keep: all old rows go before the first new one comes
        std::vector<uint32_t> stub;
        for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
            stub.push_back(ckv.up.k(i)->ne[1] == n_rows[i] ? n_rows[i] : ckv.pad_rows(i, 1));
        }
        ckv.up.keep_cells(0, 1);
        ok = ckv_replace_tensors(ckv, stub);
    }
    ok = ok && ckv_replace_tensors(ckv, n_rows);

    if (empty && ok) {
        ckv.up.keep_cells(0, n_tail_before);
    }
    return ok;
}

uint32_t ckv_rows_min(const llama_ckv & ckv, int32_t ikv) {
    uint32_t res = 0;
    for (const auto & seq : ckv.seqs) {
        res += seq.reserved.empty() ? 0 : seq.reserved[ikv] + ckv.settings.n_tail;
    }
    return res;
}

// attention of CUDA, HIP and MUSA for grouped queries and for quantised K and V reads steps of 256 rows (FATTN_KQ_STRIDE in
// ggml-cuda/fattn.cu); for other numbers there are slower kernels, and none for the largest heads.
// CKV_ROW_STEP overrides it on every device, to measure and to test
static uint32_t ckv_row_step(const ggml_tensor * t) {
    if (const char * given = getenv("CKV_ROW_STEP")) {
        return std::max(atoi(given), 1);
    }

    auto * dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(t->buffer));
    if (!dev) {
        return 1;
    }
    const std::string name = ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev));

    return name == "CUDA" || name == "ROCm" || name == "MUSA" ? CKV_PAD : 1;
}

void ckv_find_row_steps(llama_ckv & ckv) {
    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        ckv.row_steps.push_back(ckv_row_step(ckv.up.k(i)));
    }
}

// n values from row `first` on, each `step` more than the one before. by way of the stack: no allocation can fail
static void ckv_fill_columns(ggml_tensor * columns, int64_t first, int64_t n, int32_t value, int32_t step) {
    int32_t data[256];

    while (n > 0) {
        const int64_t n_now = std::min<int64_t>(n, 256);
        for (int64_t i = 0; i < n_now; ++i, value += step) {
            data[i] = value;
        }
        ggml_backend_tensor_set(columns, data, first*sizeof(int32_t), n_now*sizeof(int32_t));
        first += n_now;
        n     -= n_now;
    }
}

// which column of the mask says whether a token sees this row: one a block, then one a cell
static void ckv_place_columns(const llama_ckv & ckv, int32_t ikv) {
    ggml_tensor * columns = ckv.layers[ikv].columns;
    if (!columns) {
        return;
    }

    int64_t first = 0;
    for (size_t b = 0; b < ckv.prefix.size(); ++b) {
        const int64_t n = std::min((int64_t) ckv.prefix.blocks[b].pos[ikv].size(), columns->ne[0] - first);

        ckv_fill_columns(columns, first, n, (int32_t) b, 0);
        first += n;
    }
    ckv_fill_columns(columns, first, columns->ne[0] - first, (int32_t) ckv.prefix.size(), 1);
}

void ckv_place_tails(llama_ckv & ckv) noexcept {
    for (int32_t i = 0; i < (int32_t) ckv.layers.size(); ++i) {
        ckv.up.place_tail(i, ckv.prefix.n_rows(i), ckv.up.n_tail());

        ckv_place_columns(ckv, i);
    }
}

// a tensor and a buffer of its own for each layer; null: no memory
static ggml_tensor * ckv_alloc_queries(const llama_ckv & ckv, int32_t ikv, uint32_t n_tokens, ckv_buffers & buffers) {
    ggml_tensor * q = ckv.layers[ikv].q;

    ggml_context_ptr ctx = ckv_new_context(1);

    ggml_tensor * res = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, q->ne[0], n_tokens);
    ggml_format_name(res, "cache_q_long_l%d", ckv.up.model_layer(ikv));

    ggml_backend_buffer_ptr buf = ckv_alloc_buffer(ctx.get(), q);
    if (!buf) {
        return nullptr;
    }
    buffers.emplace_back(std::move(ctx), std::move(buf));

    return res;
}

bool ckv_keep_queries(llama_ckv & ckv, uint32_t n_tokens) {
    ckv_ring    ring(n_tokens);
    ckv_buffers buffers;

    std::vector<ggml_tensor *> tensors(ckv.layers.size(), nullptr);

    for (int32_t i = 0; i < (int32_t) tensors.size() && n_tokens > 0; ++i) {
        tensors[i] = ckv_alloc_queries(ckv, i, n_tokens, buffers);
        if (!tensors[i]) {
            return false;
        }
    }
    ckv.up.replace_added_buffers(std::move(buffers));

    for (size_t i = 0; i < tensors.size(); ++i) {
        ckv.layers[i].q_long = tensors[i];
    }
    ckv.long_ring = std::move(ring);
    ckv.generation++;
    ckv_release_compute(ckv);

    return true;
}

void ckv_release_compute(llama_ckv & ckv) {
    ckv.up.reserve_compute();

#ifdef __GLIBC__
    if (ckv.up.lctx) {
        malloc_trim(0); // blocks under glibc's mmap threshold stay resident otherwise
    }
#endif
}
