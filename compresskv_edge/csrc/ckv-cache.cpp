#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

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
        res += (layer.q ? ggml_nbytes(layer.q) : 0) + (layer.q_long ? ggml_nbytes(layer.q_long) : 0);
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

uint32_t llama_ckv::n_prefix_columns() const {
    return several() ? blocks.size() : max_prefix();
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

void llama_ckv::find_row_steps() {
    for (size_t i = 0; i < layers.size(); ++i) {
        row_steps.push_back(ckv_row_step(tensor_k(i)));
    }
}

uint32_t llama_ckv::pad_rows(int32_t ikv, uint32_t n_rows) const {
    return row_steps.empty() ? n_rows : GGML_PAD(n_rows, row_steps[ikv]);
}

uint32_t llama_ckv::n_filler(int32_t ikv) const {
    const uint32_t n_rows = n_prefix(ikv) + n_tail();
    return pad_rows(ikv, n_rows) - n_rows;
}

uint32_t llama_ckv::max_filler() const {
    uint32_t res = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        res = std::max(res, n_filler(i));
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

static std::vector<int32_t> ckv_run(uint32_t first, uint32_t n) {
    std::vector<int32_t> res(n);
    std::iota(res.begin(), res.end(), first);
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
        n_rows.push_back(pad_rows(i, std::max(n_prefix(i) + n_tail(), n_rows_min(i))));
    }

    if (!resize_rows(n_rows)) {
        seqs[seq_id].reserved = before;
        return false;
    }
    return true;
}
