#pragma once

// One compressed KV cache: the frozen prefix of every layer in front of upstream's cells (the tail).
// The layout and the contract are in ckv.h. Layers are counted as the cache counts them (ikv), model layers are `il`.

#include "ckv.h"
#include "ckv-hooks.h"

#include "ggml-cpp.h"

#include <string>
#include <vector>

// the attached profile, arrays copied
struct ckv_settings {
    std::vector<std::vector<int32_t>> heads; // (n_layer, <= n_heads)

    uint32_t window;
    uint32_t kernel;
    uint32_t n_tail;

    enum llama_ckv_pooling pooling;
};

// the tensors of one layer and what owns them
struct ckv_store {
    ggml_tensor * k = nullptr; // [n_embd_k_gqa, n_rows, 1]
    ggml_tensor * v = nullptr; // [n_embd_v_gqa, n_rows, 1]
    ggml_tensor * q = nullptr; // [n_embd_head_k*n_head, window] f32: the last rotated queries, row pos % window

    ggml_tensor * k_tail = nullptr; // [n_embd_k_gqa, n_tail] view: what upstream saves and restores
    ggml_tensor * v_tail = nullptr; // [n_embd_v_gqa, n_tail]

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
};

struct ckv_layer {
    std::vector<llama_pos> prefix; // (n_prefix,) positions of the frozen rows, ascending

    ggml_tensor * q     = nullptr; // see ckv_store
    float         scale = 0.0f;    // logits = scale * q.k, as the model's graph asks for

    uint32_t n_rows_min = 0; // rows that the tensors never shrink below, see llama_ckv_reserve
};

// indices into positions(ikv) that a layer keeps, ascending
using ckv_kept = std::vector<int32_t>;

struct llama_ckv {
    static llama_ckv_ptr create(llama_kv_cache & kv, uint32_t & kv_size);

    llama_ckv(llama_kv_cache & kv, const ckv_settings & settings, uint32_t n_ctx);

    //
    // the tail: grows with what is decoded, shrinks to settings.n_tail with each compression
    //

    bool adopt();
    bool grow(uint32_t n_tail);
    bool reserve     (uint32_t n_tokens); // make room for n_tokens more
    bool prompt_begin(uint32_t n_tokens);
    void shrink_tail();

    uint32_t n_tail() const;
    uint32_t n_used() const;

    std::vector<uint32_t> tail_cells() const; // used cells in order of position

    //
    // the prefix
    //

    void reset();
    void clear(uint32_t n_tail_max);
    bool can_rm       (llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;
    bool can_rm_window(const llama_kv_cache & swa, llama_pos p0) const;

    uint32_t n_prefix(int32_t ikv) const { return layers[ikv].prefix.size(); }
    uint32_t max_prefix() const;

    std::vector<llama_pos> positions(int32_t ikv) const; // prefix, then tail
    std::vector<int32_t>   rows     (int32_t ikv) const; // the tensor rows that hold them

    // rows for prefix and tail of coming compressions; contents stay
    //   n_rows: (n_layers of the cache,)
    bool reserve_rows(const std::vector<uint32_t> & n_rows);

    // indices into positions(ikv) that are never evicted
    std::vector<int32_t> pinned(int32_t ikv) const;

    // replace every layer's rows by the kept ones and leave the window in the tail; on failure the cache is unchanged, or
    // empty if a layer had been moved already
    bool gather(const std::vector<ckv_kept> & kept);

    //
    // scoring (ckv-score.cpp)
    //

    // ring rows with the queries of the last tokens, oldest first; fewer than `window` after a removal
    std::vector<int32_t> window_rows() const;

    // attention of the window to every row, summed over the window's queries
    //   scores: (1, n_rows) mean over the layer's heads, or (n_heads, n_rows) for max pooling, where the mean comes last
    bool score(int32_t ikv, std::vector<std::vector<float>> & scores);

    // the same attention in one vector, whatever the pooling
    //   scores: (n_rows,)
    bool score(int32_t ikv, enum llama_ckv_reduce reduce, std::vector<float> & scores);

    //
    // saved states (ckv-state.cpp)
    //

    void state_write(llama_io_write_i & io) const;
    void state_read (llama_io_read_i  & io); // throws std::runtime_error

    //
    // facts
    //

    int32_t  model_layer(int32_t ikv) const;
    int32_t  cache_layer(int32_t il)  const; // -1: not in this cache
    uint32_t n_head     (int32_t ikv) const;
    uint32_t n_head_kv  (int32_t ikv) const;

    ggml_tensor * tensor_k(int32_t ikv) const;
    ggml_tensor * tensor_v(int32_t ikv) const;

    size_t kv_bytes()       const; // K and V of all layers, as allocated
    size_t kv_bytes_stock() const;
    size_t window_bytes()   const;

    //
    // state
    //

    llama_kv_cache & kv;
    llama_context  * lctx = nullptr;

    const ckv_settings settings;
    const uint32_t     n_ctx; // positions of the context

    std::vector<ckv_layer> layers;

    std::vector<llama_pos> protect; // positions that are never evicted, ascending

    llama_pos pos_frozen = 0; // positions before this one are in a prefix or evicted
    uint64_t  generation = 0; // counts changes of tensors, prefix or scheduler: no graph outlives one

    std::vector<llama_pos> ring_pos; // (window,) position whose query a ring row holds, -1: none

    bool restoring = false; // between the prefix and the cells of a state

    ggml_tensor * tap_rows = nullptr; // I64 [n] ring rows of the graph under construction

    size_t  bytes_peak  = 0;
    int32_t n_evictions = 0;
    double  eviction_ms = 0.0;

private:
    // how the window's attention crosses to the host: one vector, or one a head (apart), or the maxima of each KV group
    enum ckv_sums { CKV_SUMS_MEAN, CKV_SUMS_APART, CKV_SUMS_MAX };

    bool attention(int32_t ikv, ckv_sums sums, std::vector<std::vector<float>> & scores);

    bool alloc  (int32_t ikv, uint32_t n_rows, ckv_store & store) const;
    bool fill   (int32_t ikv, const std::vector<int32_t> & rows, const ckv_store & store);
    void install(int32_t ikv, ckv_store & store);
    bool gather_layer(int32_t ikv, const ckv_kept & kept, bool & moved);
    bool resize_rows(const std::vector<uint32_t> & n_rows);
    bool fits_in_place(int32_t ikv, uint32_t n_rows) const;
    void place_tails(uint32_t n_tail); // after each change of tensors, prefix or tail
    ckv_store current(int32_t ikv) const;
    void resize_cells(const std::vector<uint32_t> & live, uint32_t n_tail);
    void release_compute();
};

// a small graph on the context's scheduler: build, alloc(), set the inputs, compute(), read the outputs
struct ckv_graph {
    ckv_graph(llama_ckv & ckv, size_t n_nodes);

    bool alloc();
    bool compute();

    ggml_tensor * input_i32(const char * name, int64_t n) const;
    ggml_tensor * output(ggml_tensor * t) const;

    llama_ckv      & ckv;
    ggml_context_ptr ctx;
    ggml_cgraph    * gf;
};

// ckv-model.cpp
bool        ckv_find_settings(const llama_model * model, ckv_settings & settings); // false: no profile attached
std::string ckv_unsupported(const llama_model * model);                            // why, or "" if it can be compressed

// ckv-api.cpp: remember the sentence for llama_ckv_last_error() and return the status
int32_t ckv_fail(enum llama_ckv_status status, const std::string & sentence);
