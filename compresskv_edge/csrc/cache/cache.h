#pragma once

// One compressed KV cache: the frozen prefix of every layer in front of upstream's cells (the tail). The layout and the
// contract are in ckv.h. This is what it holds; what is done to it is in the other files of this folder, each in one.
//
// With several sequences a layer's prefix is one block of rows a compressed sequence, and the tail is shared as upstream's
// unified cache is. Forked sequences share a block until one of them is compressed again.

#include "core/layout.h"
#include "core/prefix.h"
#include "core/ring.h"
#include "core/select.h"
#include "upstream/access.h"

#include <string>
#include <vector>

// the padding that upstream gives to n_kv: growth in such steps, so that a step is also the life of a reused graph
static constexpr uint32_t CKV_PAD = 256;

// the attached profile, arrays copied
struct ckv_settings {
    std::vector<std::vector<int32_t>> heads; // (n_layer, <= n_heads)

    uint32_t window;
    uint32_t kernel;
    uint32_t n_tail;

    enum ckv_pooling pooling;
};

struct ckv_layer {
    ggml_tensor * q       = nullptr; // see ckv_store
    ggml_tensor * q_long  = nullptr; // [n_embd_head_k*n_head, n_long] f32: the same of more tokens, row pos % n_long; null: not asked for
    ggml_tensor * columns = nullptr; // see ckv_store
    float         scale   = 0.0f;    // logits = scale * q.k, as the model's graph asks for
};

struct ckv_seq {
    ckv_ring               ring;     // of its window
    std::vector<llama_pos> protect;  // tokens that are never evicted, ascending
    std::vector<uint32_t>  reserved; // (n_layers of the cache,) prefix rows, see llama_ckv_reserve; empty: none

    ckv_numbering numbering;
};

struct llama_ckv {
    llama_ckv(llama_kv_cache & kv, const ckv_settings & profile, uint32_t n_positions);

    bool several() const; // whether the context may hold more than one sequence

    // rows of the tensors: prefix, tail, and filler that nobody sees, where a device reads whole steps of rows
    uint32_t max_prefix() const;
    uint32_t n_filler(int32_t ikv) const;
    uint32_t max_filler() const;
    uint32_t pad_rows(int32_t ikv, uint32_t n_rows) const; // as this layer's device reads them
    uint32_t n_columns() const;                            // of the mask for the prefix: a row each, or with several sequences a block each

    ckv_tail_size tail_size() const;

    // tokens of a layer: prefix, then tail, as in ckv.h
    std::vector<llama_pos> positions(int32_t ikv, llama_seq_id seq_id) const;
    std::vector<int32_t>   rows     (int32_t ikv, llama_seq_id seq_id) const; // the tensor rows that hold them
    std::vector<int32_t>   pinned   (int32_t ikv, llama_seq_id seq_id) const; // indices of those that are never evicted

    llama_pos n_frozen(llama_seq_id seq_id) const; // as ckv.h counts
    int64_t   n_seen  (llama_seq_id seq_id) const;

    // rings: rows with the queries of the last tokens, oldest first; fewer than there could be after a removal
    int32_t ring_row(llama_seq_id seq_id, llama_pos pos) const;
    std::vector<int32_t> window_rows(llama_seq_id seq_id) const;
    std::vector<int32_t> long_rows() const; // of the only sequence

    size_t kv_bytes()     const; // what is allocated for K and V of all layers
    size_t window_bytes() const;

    ckv_access up;

    const ckv_settings settings;
    const uint32_t     n_ctx; // positions of the context

    std::vector<ckv_layer> layers;
    std::vector<ckv_seq>   seqs; // (n_seq_max,)

    ckv_prefix prefix;
    ckv_ring   long_ring; // see llama_ckv_keep_queries()

    uint64_t generation = 0; // counts changes of tensors, prefix or scheduler: no graph outlives one

    bool restoring = false; // between the prefix and the cells of a state

    size_t  bytes_peak  = 0;
    int32_t n_evictions = 0;
    double  eviction_ms = 0.0;

    std::vector<uint32_t> row_steps; // (n_layers of the cache,) rows that the layer's device reads at a time; empty: a dry run
};
