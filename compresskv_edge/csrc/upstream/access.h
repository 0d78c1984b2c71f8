#pragma once

// The one place that knows how upstream keeps its cache (access.cpp) and its context (context.cpp): nothing else touches
// their internals. When upstream moves, this is what moves with it. Layers are counted as the cache counts them (ikv),
// model layers are `il`.

#include "core/layout.h"
#include "core/types.h"

#include "llama.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <utility>
#include <vector>

class  llama_kv_cache;
struct llama_ckv;
struct llama_memory_i;

// the tensors of one layer and what owns them
struct ckv_store {
    ggml_tensor * k = nullptr; // [n_embd_k_gqa, n_rows, 1]
    ggml_tensor * v = nullptr; // [n_embd_v_gqa, n_rows, 1]
    ggml_tensor * q = nullptr; // [n_embd_head_k*n_head, window*n_seq_max] f32: the last rotated queries, see llama_ckv::ring_row()

    ggml_tensor * columns = nullptr; // [n_rows] i32: the column of the mask that each row uses; only for several sequences

    ggml_tensor * k_tail = nullptr; // [n_embd_k_gqa, n_tail] view: what upstream saves and restores
    ggml_tensor * v_tail = nullptr; // [n_embd_v_gqa, n_tail]

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
};

// what owns tensors, as upstream keeps it
using ckv_buffers = std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>>;

struct ckv_access {
    explicit ckv_access(llama_kv_cache & cache) : kv(cache) {}

    //
    // facts
    //

    static bool can_hold(const llama_kv_cache & kv); // false: a sliding-window cache, or one that belongs to another context

    static llama_pos n_swa(const llama_kv_cache & kv);

    bool v_is_transposed() const;

    const llama_model & model() const;

    size_t   n_layer()   const;
    uint32_t n_seq_max() const;
    uint32_t n_pad()     const;
    bool     is_dry_run() const; // nothing is allocated: somebody measures

    int32_t  model_layer(int32_t ikv) const;
    int32_t  cache_layer(int32_t il)  const; // -1: not in this cache
    uint32_t n_head     (int32_t ikv) const;
    uint32_t n_head_kv  (int32_t ikv) const;
    uint32_t n_embd_q   (int32_t ikv) const; // all query heads
    bool     has_rope   (int32_t ikv) const;

    //
    // tensors and buffers
    //

    ggml_tensor * k(int32_t ikv) const;
    ggml_tensor * v(int32_t ikv) const;

    size_t row_bytes()    const; // a token in all layers
    size_t buffer_bytes() const; // by the allocator, as llama_memory_breakdown() says

    void place_tail(int32_t ikv, uint32_t n_prefix, uint32_t n_tail) const; // the views that upstream saves and restores
    void install   (int32_t ikv, ckv_store & store);                        // the old tensors are freed

    // buffers beside those of the layers, which upstream counts and frees
    ckv_buffers take_buffers(); // all of them; the layers have none until install()
    void replace_added_buffers(ckv_buffers added);

    //
    // the tail: upstream's cells
    //

    uint32_t  n_tail() const;
    uint32_t  n_used() const;
    uint32_t  n_used (llama_seq_id seq_id) const;
    llama_pos pos_max(llama_seq_id seq_id) const; // -1: no cell

    ckv_cells               tail       (llama_seq_id seq_id) const; // used cells in order of position
    std::vector<ckv_placed> tail_of_all()                    const; // the same of every sequence, with whose they are
    bool                    shares_cells(llama_seq_id seq_id) const;

    // on an exception the cells are as they were
    void keep_cells  (uint32_t n_keep, uint32_t n_tail);                          // the first ones stay, of n_tail
    void set_cells   (const std::vector<ckv_placed> & cells, uint32_t n_tail);     // they become cells 0, 1, ... of n_tail
    void shift_cells (llama_seq_id seq_id, llama_pos shift);                       // less by that much
    void clear_cells () const;
    void shrink_cells(uint32_t n_tail_max) noexcept;                               // empty ones, to n_tail_max at most
    void remove_cells(llama_seq_id seq_id) const;

    //
    // the context, once there is one
    //

    void synchronize() const;
    void flush()       const; // nothing of a decode or a pending shift of upstream's is under way any more

    void reserve_later() const; // the next decode sizes its compute buffers
    void reserve_compute() const;

    bool alloc_graph  (ggml_cgraph * gf) const;
    bool compute_graph(ggml_cgraph * gf) const;

    ggml_tensor * build_k_rot(ggml_context * ctx) const; // null: the cache's basis is the model's
    void          set_k_rot(ggml_tensor * rot) const;

    // RoPE of a layer without its magnitude, which the keys have already
    ggml_tensor * build_rope(ggml_context * ctx, ggml_tensor * cur, ggml_tensor * shift, int32_t ikv) const;

    // a cancelled decode leaves whole rows behind, a cancelled move would not
    struct no_abort {
        explicit no_abort(llama_context * ctx);
        ~no_abort();

        llama_context     * lctx;
        ggml_abort_callback callback = nullptr;
        void              * data     = nullptr;
    };

    llama_kv_cache & kv;
    llama_context  * lctx = nullptr;
};

// the sliding-window half of an interleaved cache; null: there is none
struct ckv_swa {
    const llama_kv_cache * kv = nullptr;

    size_t    bytes() const;
    llama_pos n_swa() const;
    bool      shares_cells(llama_seq_id seq_id) const;

    std::vector<llama_pos> positions(llama_seq_id seq_id) const;

    // whether what is left without the tokens from p0 on has its window
    bool can_rm(llama_seq_id seq_id, llama_pos p0) const;
};

// of a context: its compressed cache, or null
llama_ckv * ckv_of    (llama_context * lctx);
ckv_swa     ckv_swa_of(llama_context * lctx);
void        ckv_shift_swa(llama_context * lctx, llama_seq_id seq_id, llama_pos shift); // rotated by upstream before the next decode
void        ckv_trim_swa (llama_context * lctx, llama_seq_id seq_id, llama_pos p0);    // tokens from p0 on go

// of any context: what its caches hold
size_t    ckv_sum_bytes   (const llama_memory_i & memory);
size_t    ckv_memory_bytes(llama_context * lctx);
llama_pos ckv_memory_end  (llama_context * lctx, llama_seq_id seq_id); // the next position
