#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#ifdef __GLIBC__
#include <malloc.h>
#endif

// growth in steps of the padding that upstream gives to n_kv, so that a step is also the life of a reused graph
static constexpr uint32_t CKV_PAD = 256;

llama_ckv::llama_ckv(llama_kv_cache & kv, const ckv_settings & settings, uint32_t n_ctx) :
    kv(kv), settings(settings), n_ctx(n_ctx), ring_pos(settings.window, -1) {
}

//
// facts
//

int32_t llama_ckv::model_layer(int32_t ikv) const {
    return kv.layers[ikv].il;
}

int32_t llama_ckv::cache_layer(int32_t il) const {
    const auto it = kv.map_layer_ids.find(il);
    return it == kv.map_layer_ids.end() ? -1 : it->second;
}

uint32_t llama_ckv::n_head(int32_t ikv) const {
    return kv.hparams.n_head(model_layer(ikv));
}

uint32_t llama_ckv::n_head_kv(int32_t ikv) const {
    return kv.hparams.n_head_kv(model_layer(ikv));
}

ggml_tensor * llama_ckv::tensor_k(int32_t ikv) const {
    return kv.layers[ikv].k;
}

ggml_tensor * llama_ckv::tensor_v(int32_t ikv) const {
    return kv.layers[ikv].v;
}

size_t llama_ckv::kv_bytes() const {
    return kv.size_k_bytes() + kv.size_v_bytes();
}

size_t llama_ckv::kv_bytes_stock() const {
    size_t row = 0;
    for (const auto & layer : kv.layers) {
        row += layer.k->nb[1] + layer.v->nb[1];
    }
    return row*n_ctx;
}

size_t llama_ckv::window_bytes() const {
    size_t res = 0;
    for (const auto & layer : layers) {
        res += layer.q ? ggml_nbytes(layer.q) : 0;
    }
    return res;
}

//
// the tail
//

uint32_t llama_ckv::n_tail() const {
    return kv.get_size();
}

uint32_t llama_ckv::n_used() const {
    return kv.v_cells[0].get_used();
}

std::vector<uint32_t> llama_ckv::tail_cells() const {
    const auto & cells = kv.v_cells[0];

    std::vector<uint32_t> res;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i)) {
            res.push_back(i);
        }
    }

    std::stable_sort(res.begin(), res.end(), [&](uint32_t a, uint32_t b) { return cells.pos_get(a) < cells.pos_get(b); });

    return res;
}

// from one buffer for all layers, which can only be freed as a whole, to one a layer
bool llama_ckv::adopt() {
    layers.resize(kv.layers.size());

    if (kv.hparams.no_alloc) {
        return true; // a dry run that only measures
    }

    const auto shared = std::move(kv.ctxs_bufs); // freed at the end
    kv.ctxs_bufs.resize(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        ckv_store store;
        if (!alloc(i, n_tail(), store)) {
            return false;
        }
        install(i, store);
    }
    place_tails(n_tail());

    return true;
}

bool llama_ckv::reserve(uint32_t n_tokens) {
    const uint32_t n_need = n_used() + n_tokens;

    if (n_need <= n_tail()) {
        return true;
    }

    return grow(std::min<uint32_t>(GGML_PAD(n_need, CKV_PAD), std::max(n_ctx, n_need)));
}

// as reserve, and the next decode sizes its compute buffers for all of the prompt at once
bool llama_ckv::prompt_begin(uint32_t n_tokens) {
    const uint32_t n_before = n_tail();

    if (!reserve(n_tokens)) {
        return false;
    }
    lctx->sched_need_reserve |= n_tail() > n_before;

    return true;
}

static std::vector<int32_t> ckv_first_rows(uint32_t n) {
    std::vector<int32_t> res(n);
    std::iota(res.begin(), res.end(), 0);
    return res;
}

bool llama_ckv::grow(uint32_t n_tail_new) {
    if (lctx) {
        lctx->synchronize();
    }

    std::vector<uint32_t> n_rows;
    for (size_t i = 0; i < layers.size(); ++i) {
        n_rows.push_back(std::max(n_prefix(i) + n_tail_new, layers[i].n_rows_min));
    }
    if (!resize_rows(n_rows)) {
        return false;
    }

    std::vector<uint32_t> all(n_tail());
    std::iota(all.begin(), all.end(), 0);

    resize_cells(all, n_tail_new);
    place_tails(n_tail_new);

    return true;
}

// tensors of another number of rows, contents stay; a layer that got its new size already works as well as with the old
bool llama_ckv::resize_rows(const std::vector<uint32_t> & n_rows) {
    for (size_t i = 0; i < layers.size(); ++i) {
        if (tensor_k(i)->ne[1] == n_rows[i]) {
            continue;
        }

        ckv_store store;
        if (!alloc(i, n_rows[i], store) || !fill(i, ckv_first_rows(n_prefix(i) + n_tail()), store)) {
            place_tails(n_tail());
            return false;
        }
        install(i, store);
    }
    place_tails(n_tail());

    return true;
}

// an empty tail that an earlier prompt has grown goes back to its size; its rows go with the next allocation
void llama_ckv::shrink_tail() {
    if (n_used() == 0 && n_tail() > settings.n_tail) {
        resize_cells({}, settings.n_tail);
        place_tails(settings.n_tail);
        generation++;
    }
}

// the live cells become cells 0, 1, ... of n_tail
void llama_ckv::resize_cells(const std::vector<uint32_t> & live, uint32_t n_tail) {
    auto & cells = kv.v_cells[0];

    const uint32_t head = std::min<uint32_t>(kv.v_heads[0], live.size());
    const auto     kept = cells.cp(live);

    cells.resize(n_tail);
    cells.set(0, kept);

    kv.v_heads[0] = head;
}

//
// the prefix
//

void llama_ckv::reset() {
    for (auto & layer : layers) {
        layer.prefix.clear();
    }

    std::fill(ring_pos.begin(), ring_pos.end(), -1);

    pos_frozen = 0;
    generation++;

    place_tails(n_tail());
}

// everything goes, and the tail shrinks to what every layer has rows for, whatever happened to some of them
void llama_ckv::clear(uint32_t n_tail_max) {
    kv.clear(false);
    resize_cells({}, std::min(n_tail(), n_tail_max));
    place_tails(n_tail());
}

bool llama_ckv::can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    const bool everything = p0 <= 0 && p1 > kv.v_cells[0].seq_pos_max(0);

    return seq_id > 0 || p0 >= pos_frozen || p1 <= 0 || everything;
}

bool llama_ckv::can_rm_window(const llama_kv_cache & swa, llama_pos p0) const {
    const llama_pos first = swa.seq_pos_min(0);

    return first <= 0 || p0 == 0 || p0 - (llama_pos) swa.n_swa + 1 >= first || p0 > swa.seq_pos_max(0);
}

uint32_t llama_ckv::max_prefix() const {
    uint32_t res = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        res = std::max(res, n_prefix(i));
    }
    return res;
}

std::vector<llama_pos> llama_ckv::positions(int32_t ikv) const {
    std::vector<llama_pos> res = layers[ikv].prefix;
    for (const uint32_t cell : tail_cells()) {
        res.push_back(kv.v_cells[0].pos_get(cell));
    }
    return res;
}

std::vector<int32_t> llama_ckv::rows(int32_t ikv) const {
    std::vector<int32_t> res = ckv_first_rows(n_prefix(ikv));
    for (const uint32_t cell : tail_cells()) {
        res.push_back(n_prefix(ikv) + cell);
    }
    return res;
}

std::vector<int32_t> llama_ckv::pinned(int32_t ikv) const {
    std::vector<int32_t> res;

    const auto pos = positions(ikv);
    for (size_t i = 0; i < pos.size(); ++i) {
        if (std::binary_search(protect.begin(), protect.end(), pos[i])) {
            res.push_back(i);
        }
    }

    return res;
}

bool llama_ckv::reserve_rows(const std::vector<uint32_t> & n_rows) {
    if (!resize_rows(n_rows)) {
        return false;
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        layers[i].n_rows_min = n_rows[i];
    }
    return true;
}

// a layer whose tensors have the right size already is rearranged in place: memory stays flat from one compression to
// the next. rows that are not made of words cannot be
bool llama_ckv::fits_in_place(int32_t ikv, uint32_t n_rows) const {
    const auto fits = [&](const ggml_tensor * t) { return t->ne[1] == n_rows && t->nb[1] % sizeof(int32_t) == 0; };

    return fits(tensor_k(ikv)) && fits(tensor_v(ikv));
}

// a cancelled decode leaves whole rows behind, a cancelled move would not
struct ckv_no_abort {
    ckv_no_abort(llama_context * lctx, ggml_abort_callback callback, void * data) : lctx(lctx), callback(callback), data(data) {
        lctx->set_abort_callback(nullptr, nullptr);
    }
    ~ckv_no_abort() {
        lctx->set_abort_callback(callback, data);
    }

    llama_context     * lctx;
    ggml_abort_callback callback;
    void              * data;
};

// one layer after the other, each old tensor freed before the next new one is allocated: at no time is there more than
// the full cache and one compressed layer
bool llama_ckv::gather(const std::vector<ckv_kept> & kept) {
    const uint32_t n_live = settings.window;

    const auto cells = tail_cells();
    const std::vector<uint32_t> live(cells.end() - n_live, cells.end());

    const ckv_no_abort no_abort(lctx, lctx->abort_callback, lctx->abort_callback_data);

    for (size_t i = 0; i < layers.size(); ++i) {
        if (!gather_layer(i, kept[i])) {
            if (i > 0) {
                clear(settings.n_tail); // layers of different tokens and no common tail: what is left means nothing
            }
            return false;
        }
    }

    pos_frozen = kv.v_cells[0].pos_get(live[0]);

    kv.v_heads[0] = n_live;
    resize_cells(live, settings.n_tail);
    place_tails(settings.n_tail);

    release_compute();

    return true;
}

bool llama_ckv::gather_layer(int32_t ikv, const ckv_kept & kept) {
    GGML_ASSERT(kept.size() >= settings.window && "the window is always kept");

    const auto rows_old = rows(ikv);
    const auto pos_old  = positions(ikv);

    std::vector<int32_t>   rows_new;
    std::vector<llama_pos> prefix;

    for (const int32_t j : kept) {
        rows_new.push_back(rows_old[j]);
        prefix  .push_back(pos_old[j]);
    }
    prefix.resize(kept.size() - settings.window);

    const uint32_t n_rows = std::max<uint32_t>(prefix.size() + settings.n_tail, layers[ikv].n_rows_min);

    if (fits_in_place(ikv, n_rows)) {
        if (!fill(ikv, rows_new, current(ikv))) {
            return false;
        }
    } else {
        ckv_store store;
        if (!alloc(ikv, n_rows, store) || !fill(ikv, rows_new, store)) {
            return false;
        }
        install(ikv, store);
    }

    layers[ikv].prefix = std::move(prefix);

    return true;
}

//
// tensors
//

bool llama_ckv::alloc(int32_t ikv, uint32_t n_rows, ckv_store & store) const {
    ggml_init_params params = {
        /*.mem_size   =*/ 5*ggml_tensor_overhead(),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    store.ctx.reset(ggml_init(params));

    auto * ctx = store.ctx.get();

    const ggml_tensor * k = tensor_k(ikv);
    const ggml_tensor * v = tensor_v(ikv);

    store.k = ggml_new_tensor_3d(ctx, k->type, k->ne[0], n_rows, 1);
    store.v = ggml_new_tensor_3d(ctx, v->type, v->ne[0], n_rows, 1);
    store.q = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, (int64_t) kv.hparams.n_embd_head_k(model_layer(ikv))*n_head(ikv), settings.window);

    store.k_tail = ggml_view_2d(ctx, store.k, k->ne[0], n_rows, store.k->nb[1], 0);
    store.v_tail = ggml_view_2d(ctx, store.v, v->ne[0], n_rows, store.v->nb[1], 0);

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
    }
}

// the layer takes the store, its old tensors are freed
void llama_ckv::install(int32_t ikv, ckv_store & store) {
    auto & layer = kv.layers[ikv];

    bytes_peak = std::max(bytes_peak, kv_bytes() + ggml_nbytes(store.k) + ggml_nbytes(store.v)); // both are there now

    layer.k = store.k;
    layer.v = store.v;
    layer.k_stream = { store.k_tail };
    layer.v_stream = { store.v_tail };

    layers[ikv].q = store.q;

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

    ckv_graph graph(*this, 16);

    ggml_tensor * idx = graph.input_i32("ckv_rows", rows.size());

    for (const auto & [src, dst] : moves) {
        if (!in_place && (ckv_is_one_run(rows) || src->nb[1] % sizeof(int32_t) != 0)) {
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
    lctx->sched_need_reserve = true;
    lctx->sched_reserve();

#ifdef __GLIBC__
    malloc_trim(0); // blocks under glibc's mmap threshold stay resident otherwise
#endif
}

//
// ckv_graph
//

ckv_graph::ckv_graph(llama_ckv & ckv, size_t n_nodes) : ckv(ckv) {
    ggml_init_params params = {
        /*.mem_size   =*/ 2*n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    ctx.reset(ggml_init(params));
    gf = ggml_new_graph_custom(ctx.get(), n_nodes, false);
}

ggml_tensor * ckv_graph::input_i32(const char * name, int64_t n) const {
    ggml_tensor * res = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n);
    ggml_set_input(res);
    ggml_set_name(res, name);
    return res;
}

ggml_tensor * ckv_graph::output(ggml_tensor * t) const {
    ggml_set_output(t);
    ggml_build_forward_expand(gf, t);
    return t;
}

bool ckv_graph::alloc() {
    auto * sched = ckv.lctx->get_sched();

    ckv.generation++; // the kept graph loses its allocation
    ggml_backend_sched_reset(sched);

    return ggml_backend_sched_alloc_graph(sched, gf);
}

bool ckv_graph::compute() {
    const bool ok = ckv.lctx->graph_compute(gf, true) == GGML_STATUS_SUCCESS;

    ggml_backend_sched_synchronize(ckv.lctx->get_sched());

    return ok;
}

//
// hooks
//

void llama_ckv_deleter::operator()(llama_ckv * ckv) const {
    delete ckv;
}

static void ckv_throw(const std::string & sentence) {
    ckv_fail(LLAMA_CKV_ERR_UNSUPPORTED, sentence);
    throw std::runtime_error(sentence);
}

llama_ckv_ptr llama_ckv::create(llama_kv_cache & kv, uint32_t & kv_size) {
    ckv_settings settings;

    // sliding-window caches are bounded already; a shared cache belongs to another context
    if (!ckv_find_settings(&kv.model, settings) || kv.swa_type != LLAMA_SWA_TYPE_NONE || kv.other) {
        return nullptr;
    }
    if (kv.v_trans) {
        ckv_throw("a compressed KV cache needs flash attention: create the context with flash_attn enabled");
    }
    if (kv.n_seq_max > 1) {
        ckv_throw("a compressed KV cache holds one sequence for now, n_seq_max is " + std::to_string(kv.n_seq_max) +
                  ": create the context with n_seq_max = 1 (llama-cpp-python: embedding=False)");
    }

    llama_ckv_ptr res(new llama_ckv(kv, settings, kv_size));

    kv_size = std::min(kv_size, settings.n_tail);

    return res;
}

llama_ckv_ptr ckv_create(llama_kv_cache & kv, uint32_t & kv_size) {
    return llama_ckv::create(kv, kv_size);
}

void ckv_adopt(llama_ckv * ckv) {
    if (ckv && !ckv->adopt()) {
        throw std::runtime_error("failed to allocate buffer for the compressed kv cache");
    }
}

void ckv_bind(llama_ckv * ckv, llama_context * lctx) {
    if (ckv) {
        ckv->lctx = lctx;
    }
}

bool ckv_reserve(llama_ckv * ckv, const std::vector<llama_ubatch> & ubatches) {
    if (!ckv) {
        return true;
    }

    uint32_t n_tokens = 0;
    for (const auto & ubatch : ubatches) {
        n_tokens += ubatch.n_tokens;

        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (ubatch.pos[i] >= (llama_pos) ckv->n_ctx) {
                return false; // the context is full, as for the stock cache
            }
        }
    }

    return ckv->reserve(n_tokens);
}

void ckv_reset(llama_ckv * ckv) {
    if (ckv) {
        ckv->reset();
    }
}

bool ckv_seq_rm(llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (!ckv) {
        return true;
    }
    if (!ckv->can_rm(seq_id, p0, p1)) {
        return false;
    }
    // upstream empties the sequence before it restores the cells, after the prefix came back
    if (seq_id <= 0 && p0 < ckv->pos_frozen && p1 > 0 && !ckv->restoring) {
        ckv->reset(); // everything goes
    }
    return true;
}

// the sliding-window cache holds what the window needs at the end of the sequence; a removal further back would leave
// the tokens before it without their window. both caches change, or none does
bool ckv_seq_rm_iswa(const llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * ckv = base.ckv.get();
    if (!ckv || seq_id > 0) {
        return true;
    }
    return ckv->can_rm(seq_id, std::max(p0, 0), p1 < 0 ? INT32_MAX : p1) && ckv->can_rm_window(swa, std::max(p0, 0));
}

bool ckv_has_prefix(const llama_ckv * ckv) {
    return ckv && ckv->pos_frozen > 0;
}

bool ckv_refuses_shift(const llama_ckv * ckv) {
    if (!ckv_has_prefix(ckv)) {
        return false;
    }
    LLAMA_LOG_ERROR("%s: positions of a compressed KV cache cannot be shifted; clear it and decode again\n", __func__);
    return true;
}

uint32_t ckv_n_prefix(const llama_ckv * ckv, int32_t ikv) {
    return ckv ? ckv->n_prefix(ikv) : 0;
}

uint32_t ckv_max_prefix(const llama_ckv * ckv) {
    return ckv ? ckv->max_prefix() : 0;
}
