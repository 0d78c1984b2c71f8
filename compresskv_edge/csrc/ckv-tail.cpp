// the tail: upstream's cells, as many as what is decoded needs

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>

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

    find_row_steps();

    const uint32_t n_tail_first = std::min(n_ctx, settings.n_tail);

    const auto shared = std::move(kv.ctxs_bufs); // freed at the end
    kv.ctxs_bufs.resize(layers.size());

    for (size_t i = 0; i < layers.size(); ++i) {
        ckv_store store;
        if (!alloc(i, pad_rows(i, n_tail_first), store)) {
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
        n_rows.push_back(pad_rows(i, std::max(n_prefix(i) + n_tail_new, n_rows_min(i))));
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
            stub.push_back(tensor_k(i)->ne[1] == n_rows[i] ? n_rows[i] : pad_rows(i, 1));
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
