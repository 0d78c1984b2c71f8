// llama_kv_cache and llama_kv_cells

#include "upstream/access.h"

#include "llama-kv-cache.h"
#include "llama-kv-cells.h"
#include "llama-model.h"

#include <algorithm>
#include <utility>

static_assert(CKV_MAX_SEQ == LLAMA_MAX_SEQ, "core/types.h says how many sequences upstream has");

//
// facts
//

bool ckv_access::can_hold(const llama_kv_cache & kv) {
    return kv.swa_type == LLAMA_SWA_TYPE_NONE && !kv.other;
}

llama_pos ckv_access::n_swa(const llama_kv_cache & kv) {
    return (llama_pos) kv.n_swa;
}

bool ckv_access::v_is_transposed() const {
    return kv.v_trans;
}

const llama_model & ckv_access::model() const {
    return kv.model;
}

size_t ckv_access::n_layer() const {
    return kv.layers.size();
}

uint32_t ckv_access::n_seq_max() const {
    return kv.n_seq_max;
}

uint32_t ckv_access::n_pad() const {
    return kv.n_pad;
}

bool ckv_access::is_dry_run() const {
    return kv.hparams.no_alloc;
}

int32_t ckv_access::model_layer(int32_t ikv) const {
    return kv.layers[ikv].il;
}

int32_t ckv_access::cache_layer(int32_t il) const {
    const auto it = kv.map_layer_ids.find(il);
    return it == kv.map_layer_ids.end() ? -1 : it->second;
}

uint32_t ckv_access::n_head(int32_t ikv) const {
    return kv.hparams.n_head(model_layer(ikv));
}

uint32_t ckv_access::n_head_kv(int32_t ikv) const {
    return kv.hparams.n_head_kv(model_layer(ikv));
}

uint32_t ckv_access::n_embd_q(int32_t ikv) const {
    return kv.hparams.n_embd_head_k(model_layer(ikv))*n_head(ikv);
}

bool ckv_access::has_rope(int32_t ikv) const {
    return kv.hparams.has_rope(model_layer(ikv));
}

//
// tensors and buffers
//

ggml_tensor * ckv_access::k(int32_t ikv) const {
    return kv.layers[ikv].k;
}

ggml_tensor * ckv_access::v(int32_t ikv) const {
    return kv.layers[ikv].v;
}

size_t ckv_access::row_bytes() const {
    size_t res = 0;
    for (const auto & layer : kv.layers) {
        res += layer.k->nb[1] + layer.v->nb[1];
    }
    return res;
}

size_t ckv_access::buffer_bytes() const {
    size_t res = 0;
    for (const auto & [_, buf] : kv.ctxs_bufs) {
        res += buf ? ggml_backend_buffer_get_size(buf.get()) : 0;
    }
    return res;
}

// a view of the tail's rows, reused when the prefix changes
static void ckv_place_view(ggml_tensor * view, ggml_tensor * t, uint32_t n_prefix, uint32_t n_tail) {
    view->view_offs = n_prefix*t->nb[1];
    view->data      = (char *) t->data + view->view_offs;
    view->ne[1]     = n_tail;
    view->nb[2]     = view->nb[3] = n_tail*t->nb[1];
}

void ckv_access::place_tail(int32_t ikv, uint32_t n_prefix, uint32_t n_tail) const {
    auto & layer = kv.layers[ikv];

    ckv_place_view(layer.k_stream[0], layer.k, n_prefix, n_tail);
    ckv_place_view(layer.v_stream[0], layer.v, n_prefix, n_tail);
}

void ckv_access::install(int32_t ikv, ckv_store & store) {
    auto & layer = kv.layers[ikv];

    layer.k = store.k;
    layer.v = store.v;

    layer.k_stream[0] = store.k_tail;
    layer.v_stream[0] = store.v_tail;

    kv.ctxs_bufs[ikv] = { std::move(store.ctx), std::move(store.buf) };
}

ckv_buffers ckv_access::take_buffers() {
    ckv_buffers res = std::move(kv.ctxs_bufs);

    kv.ctxs_bufs.clear();
    kv.ctxs_bufs.resize(n_layer());

    return res;
}

void ckv_access::replace_added_buffers(ckv_buffers added) {
    kv.ctxs_bufs.reserve(n_layer() + added.size()); // from here on nothing can fail

    kv.ctxs_bufs.resize(n_layer());
    for (auto & buffer : added) {
        kv.ctxs_bufs.push_back(std::move(buffer));
    }
}

//
// the tail
//

uint32_t ckv_access::n_tail() const {
    return kv.get_size();
}

uint32_t ckv_access::n_used() const {
    return kv.v_cells[0].get_used();
}

uint32_t ckv_access::n_used(llama_seq_id seq_id) const {
    return (uint32_t) kv.v_cells[0].seq_pos_get(seq_id).size();
}

llama_pos ckv_access::pos_max(llama_seq_id seq_id) const {
    return kv.v_cells[0].seq_pos_max(seq_id);
}

ckv_cells ckv_access::tail(llama_seq_id seq_id) const {
    ckv_cells res;
    for (const auto & [pos, cell] : kv.v_cells[0].seq_pos_get(seq_id)) { // a set: in order of position, then of cell
        res.push_back({ cell, pos });
    }
    return res;
}

std::vector<ckv_placed> ckv_access::tail_of_all() const {
    const auto & cells = kv.v_cells[0];

    std::vector<ckv_placed> res;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i)) {
            res.push_back({ i, cells.seq_get_all(i) });
        }
    }
    std::stable_sort(res.begin(), res.end(), [&](const ckv_placed & a, const ckv_placed & b) { return cells.pos_get(a.cell) < cells.pos_get(b.cell); });

    return res;
}

static bool ckv_shares_cells(const llama_kv_cells & cells, llama_seq_id seq_id) {
    const auto & own = cells.seq_pos_get(seq_id);
    return std::any_of(own.begin(), own.end(), [&](const auto & pos_cell) { return cells.seq_count(pos_cell.second) > 1; });
}

bool ckv_access::shares_cells(llama_seq_id seq_id) const {
    return ckv_shares_cells(kv.v_cells[0], seq_id);
}

void ckv_access::keep_cells(uint32_t n_keep, uint32_t n_tail) {
    llama_kv_cells res;
    res.resize(n_tail);
    res.set(0, kv.v_cells[0].cp(0, n_keep));

    kv.v_cells[0] = std::move(res);
    kv.v_heads[0] = std::min(kv.v_heads[0], n_keep);
}

// cell i of `to` becomes cell `from` of `cells`, at position pos
static void ckv_copy_cell(llama_kv_cells & to, uint32_t i, const llama_kv_cells & cells, uint32_t from, llama_pos pos, const ckv_seq_set & seqs) {
    to.pos_set(i, pos);
    to.ext_set(i, cells.ext_get(from));

    for (size_t s = 0; s < seqs.size(); ++s) {
        if (seqs.test(s)) {
            to.seq_add(i, (llama_seq_id) s);
        }
    }
}

void ckv_access::set_cells(const std::vector<ckv_placed> & placed, uint32_t n_tail) {
    const auto & cells = kv.v_cells[0];

    llama_kv_cells res;
    res.resize(n_tail);

    for (uint32_t i = 0; i < placed.size(); ++i) {
        ckv_copy_cell(res, i, cells, placed[i].cell, cells.pos_get(placed[i].cell), placed[i].seqs);
    }

    kv.v_cells[0] = std::move(res);
    kv.v_heads[0] = (uint32_t) placed.size();
}

void ckv_access::shift_cells(llama_seq_id seq_id, llama_pos shift) {
    const auto & cells = kv.v_cells[0];

    llama_kv_cells res;
    res.resize(n_tail());

    for (uint32_t i = 0; i < n_tail(); ++i) {
        if (!cells.is_empty(i)) {
            ckv_copy_cell(res, i, cells, i, cells.pos_get(i) - (cells.seq_has(i, seq_id) ? shift : 0), cells.seq_get_all(i));
        }
    }
    kv.v_cells[0] = std::move(res);
}

void ckv_access::clear_cells() const {
    kv.clear(false);
}

void ckv_access::shrink_cells(uint32_t n_tail_max) noexcept {
    if (n_tail() > n_tail_max) {
        kv.v_cells[0].resize(n_tail_max); // shrinking vectors allocates nothing
        kv.v_heads[0] = 0;
    }
}

void ckv_access::remove_cells(llama_seq_id seq_id) const {
    kv.seq_rm(seq_id, -1, -1);

    // a damaged state may have put some before the first position, where upstream finds none. nothing here allocates
    auto & cells = kv.v_cells[0];
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.seq_has(i, seq_id)) {
            cells.seq_rm(i, seq_id);
        }
    }
}

ggml_tensor * ckv_access::build_k_rot(ggml_context * ctx) const {
    return kv.build_input_k_rot(ctx);
}

void ckv_access::set_k_rot(ggml_tensor * rot) const {
    ggml_backend_tensor_set(rot, kv.attn_rot_hadamard.at(rot->ne[0]).data(), 0, ggml_nbytes(rot));
}

//
// the sliding-window half
//

size_t ckv_swa::bytes() const {
    return kv ? ckv_sum_bytes(*kv) : 0;
}

llama_pos ckv_swa::n_swa() const {
    return kv ? ckv_access::n_swa(*kv) : 0;
}

bool ckv_swa::shares_cells(llama_seq_id seq_id) const {
    return kv && ckv_shares_cells(kv->get_cells(seq_id), seq_id);
}

std::vector<llama_pos> ckv_swa::positions(llama_seq_id seq_id) const {
    std::vector<llama_pos> res;
    if (kv) {
        for (const auto & [pos, _] : kv->get_cells(seq_id).seq_pos_get(seq_id)) {
            res.push_back(pos);
        }
    }
    return res;
}

bool ckv_swa::can_rm(llama_seq_id seq_id, llama_pos p0) const {
    const llama_pos first = kv->seq_pos_min(seq_id);

    return first <= 0 || p0 == 0 || p0 - n_swa() + 1 >= first || p0 > kv->seq_pos_max(seq_id);
}
