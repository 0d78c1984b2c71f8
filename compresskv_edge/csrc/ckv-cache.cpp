#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>

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
    const bool empty = n_used() == 0 && max_prefix() == 0;

    for (size_t i = 0; i < layers.size(); ++i) {
        if (tensor_k(i)->ne[1] == n_rows[i]) {
            continue;
        }

        if (empty) {
            ckv_store none; // nothing to keep: the old rows go before the new ones come
            if (alloc(i, 1, none)) {
                install(i, none);
            }
        }

        ckv_store store;
        if (!alloc(i, n_rows[i], store) || (!empty && !fill(i, ckv_first_rows(n_prefix(i) + n_tail()), store))) {
            empty ? clear(1) : place_tails(n_tail());
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
