#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>

// growth in steps of the padding that upstream gives to n_kv, so that a step is also the life of a reused graph
static constexpr uint32_t CKV_PAD = 256;

llama_ckv::llama_ckv(llama_kv_cache & kv, const ckv_settings & settings, uint32_t n_ctx) :
    kv(kv), settings(settings), n_ctx(n_ctx), seqs(kv.n_seq_max) {
    for (auto & seq : seqs) {
        seq.ring_pos.assign(settings.window, -1);
    }
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

const llama_kv_cells & llama_ckv::cells() const {
    return kv.v_cells[0];
}

// by the allocator, so that llama_memory_breakdown() says the same
size_t llama_ckv::kv_bytes() const {
    size_t res = 0;
    for (const auto & [_, buf] : kv.ctxs_bufs) {
        res += buf ? ggml_backend_buffer_get_size(buf.get()) : 0;
    }
    return res - window_bytes();
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

void llama_ckv::flush() {
    if (lctx) {
        lctx->synchronize();
        lctx->memory_update(false);
    }
}

//
// the tail
//

uint32_t llama_ckv::n_tail() const {
    return kv.get_size();
}

uint32_t llama_ckv::n_used() const {
    return cells().get_used();
}

uint32_t llama_ckv::n_used(llama_seq_id seq_id) const {
    return cells().seq_pos_get(seq_id).size();
}

std::vector<uint32_t> llama_ckv::tail_cells(llama_seq_id seq_id) const {
    std::vector<uint32_t> res;
    for (uint32_t i = 0; i < cells().size(); ++i) {
        if (!cells().is_empty(i) && (seq_id < 0 || cells().seq_has(i, seq_id))) {
            res.push_back(i);
        }
    }

    std::stable_sort(res.begin(), res.end(), [&](uint32_t a, uint32_t b) { return cells().pos_get(a) < cells().pos_get(b); });

    return res;
}

// from one buffer for all layers, which can only be freed as a whole and holds a stub, to one a layer
bool llama_ckv::adopt() {
    layers.resize(kv.layers.size());

    if (kv.hparams.no_alloc) {
        return true; // a dry run that only measures
    }

    const uint32_t n_tail_first = std::min(n_ctx, settings.n_tail);

    const auto shared = std::move(kv.ctxs_bufs); // freed at the end
    kv.ctxs_bufs.resize(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        ckv_store store;
        if (!alloc(i, n_tail_first, store)) {
            return false;
        }
        install(i, store);
    }
    resize_cells({}, n_tail_first);
    place_tails(n_tail_first);

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

static std::vector<int32_t> ckv_run(uint32_t first, uint32_t n) {
    std::vector<int32_t> res(n);
    std::iota(res.begin(), res.end(), first);
    return res;
}

bool llama_ckv::grow(uint32_t n_tail_new) {
    if (lctx) {
        lctx->synchronize();
    }

    std::vector<uint32_t> n_rows;
    for (size_t i = 0; i < layers.size(); ++i) {
        n_rows.push_back(std::max(n_prefix(i) + n_tail_new, n_rows_min(i)));
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
    const uint32_t n_tail_before = n_tail();

    const bool empty = n_used() == 0 && blocks.empty();
    bool ok = true;

    if (empty) { // nothing to keep: all old rows go before the first new one comes
        std::vector<uint32_t> stub;
        for (size_t i = 0; i < layers.size(); ++i) {
            stub.push_back(tensor_k(i)->ne[1] == n_rows[i] ? n_rows[i] : 1);
        }
        resize_cells({}, 1);
        ok = replace_tensors(stub);
    }
    ok = ok && replace_tensors(n_rows);

    if (empty && ok) {
        resize_cells({}, n_tail_before);
    }
    place_tails(n_tail()); // of one row if memory is gone: decoding lets it grow again

    return ok;
}

bool llama_ckv::replace_tensors(const std::vector<uint32_t> & n_rows) {
    for (size_t i = 0; i < layers.size(); ++i) {
        if (tensor_k(i)->ne[1] == n_rows[i]) {
            continue;
        }

        ckv_store store;
        if (!alloc(i, n_rows[i], store) || !fill(i, ckv_run(0, n_prefix(i) + n_tail()), store)) {
            return false;
        }
        install(i, store);
    }
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

// the given cells become cells 0, 1, ... of n_tail
void llama_ckv::set_cells(const std::vector<ckv_cell> & live, uint32_t n_tail) {
    llama_kv_cells res;
    res.resize(n_tail);

    for (uint32_t i = 0; i < live.size(); ++i) {
        res.pos_set(i, cells().pos_get(live[i].cell));
        res.ext_set(i, cells().ext_get(live[i].cell));

        for (size_t s = 0; s < seqs.size(); ++s) {
            if (live[i].seqs.test(s)) {
                res.seq_add(i, s);
            }
        }
    }

    kv.v_cells[0] = std::move(res);
    kv.v_heads[0] = live.size();
}

// a tail for every sequence in use, and always room for the live cells, n_more to come and a window
uint32_t llama_ckv::tail_for(const ckv_layout & layout, uint32_t n_more) const {
    ckv_seq_set in_use;
    for (const auto & block : layout.blocks) {
        in_use |= block.seqs;
    }
    for (const auto & cell : layout.cells) {
        in_use |= cell.seqs;
    }

    const uint32_t n_need = layout.cells.size() + n_more + settings.window;
    const uint32_t n_tail = settings.n_tail*std::max<uint32_t>(in_use.count(), 1);

    return n_need <= n_tail ? n_tail : std::min<uint32_t>(GGML_PAD(n_need, CKV_PAD), std::max(n_ctx, n_need));
}

//
// the prefix
//

void llama_ckv::reset() {
    blocks.clear();

    for (size_t s = 0; s < seqs.size(); ++s) {
        leave(s);
    }

    generation++;

    place_tails(n_tail());
}

// everything goes, and the tail shrinks to what every layer has rows for, whatever happened to some of them
void llama_ckv::clear(uint32_t n_tail_max) {
    kv.clear(false);
    resize_cells({}, std::min(n_tail(), n_tail_max));
    place_tails(n_tail());
}

uint32_t llama_ckv::first_row(int32_t ikv, int32_t block) const {
    uint32_t res = 0;
    for (int32_t i = 0; i < block; ++i) {
        res += blocks[i].pos[ikv].size();
    }
    return res;
}

uint32_t llama_ckv::n_prefix(int32_t ikv) const {
    return first_row(ikv, blocks.size());
}

uint32_t llama_ckv::n_prefix(int32_t ikv, llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);
    return b < 0 ? 0 : blocks[b].pos[ikv].size();
}

uint32_t llama_ckv::max_prefix() const {
    uint32_t res = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        res = std::max(res, n_prefix(i));
    }
    return res;
}

std::vector<llama_pos> llama_ckv::positions(int32_t ikv, llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);

    std::vector<llama_pos> res;
    if (b >= 0) {
        res = blocks[b].pos[ikv];
    }
    for (const uint32_t cell : tail_cells(seq_id)) {
        res.push_back(cells().pos_get(cell) + seqs[seq_id].numbering.n_rebased);
    }
    return res;
}

std::vector<int32_t> llama_ckv::rows(int32_t ikv, llama_seq_id seq_id) const {
    std::vector<int32_t> res = ckv_run(first_row(ikv, std::max(block_of(seq_id), 0)), n_prefix(ikv, seq_id));

    const uint32_t n = n_prefix(ikv);
    for (const uint32_t cell : tail_cells(seq_id)) {
        res.push_back(n + cell);
    }
    return res;
}

std::vector<int32_t> llama_ckv::pinned(int32_t ikv, llama_seq_id seq_id) const {
    const auto & protect = seqs[seq_id].protect;

    std::vector<int32_t> res;

    const auto pos = positions(ikv, seq_id);
    for (size_t i = 0; i < pos.size(); ++i) {
        if (std::binary_search(protect.begin(), protect.end(), pos[i])) {
            res.push_back(i);
        }
    }

    return res;
}

uint32_t llama_ckv::n_rows_min(int32_t ikv) const {
    uint32_t res = 0;
    for (const auto & seq : seqs) {
        res += seq.reserved.empty() ? 0 : seq.reserved[ikv] + settings.n_tail;
    }
    return res;
}

bool llama_ckv::reserve_rows(llama_seq_id seq_id, const std::vector<uint32_t> & n_prefix_new) {
    const auto before = seqs[seq_id].reserved;
    seqs[seq_id].reserved = n_prefix_new;

    std::vector<uint32_t> n_rows;
    for (size_t i = 0; i < layers.size(); ++i) {
        n_rows.push_back(std::max(n_prefix(i) + n_tail(), n_rows_min(i)));
    }

    if (!resize_rows(n_rows)) {
        seqs[seq_id].reserved = before;
        return false;
    }
    return true;
}
