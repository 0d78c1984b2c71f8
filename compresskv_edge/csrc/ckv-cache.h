#pragma once

// One compressed KV cache: the frozen prefix of every layer in front of upstream's cells (the tail).
// The layout and the contract are in ckv.h. Layers are counted as the cache counts them (ikv), model layers are `il`.
//
// With several sequences a layer's prefix is one block of rows a compressed sequence, and the tail is shared as upstream's
// unified cache is. Forked sequences share a block until one of them is compressed again.

#include "ckv.h"
#include "ckv-hooks.h"

#include "llama-kv-cells.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <string>
#include <vector>

// the padding that upstream gives to n_kv: growth in such steps, so that a step is also the life of a reused graph
static constexpr uint32_t CKV_PAD = 256;

using ckv_seq_set = llama_kv_cells::seq_set_t;

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
    ggml_tensor * q = nullptr; // [n_embd_head_k*n_head, window*n_seq_max] f32: the last rotated queries, see ring_row()

    ggml_tensor * columns = nullptr; // [n_rows] i32: the column of the mask that each row uses; only for several sequences

    ggml_tensor * k_tail = nullptr; // [n_embd_k_gqa, n_tail] view: what upstream saves and restores
    ggml_tensor * v_tail = nullptr; // [n_embd_v_gqa, n_tail]

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
};

struct ckv_layer {
    ggml_tensor * q       = nullptr; // see ckv_store
    ggml_tensor * q_long  = nullptr; // [n_embd_head_k*n_head, n_long] f32: the same of more tokens, row pos % n_long; null: not asked for
    ggml_tensor * columns = nullptr;
    float         scale   = 0.0f;    // logits = scale * q.k, as the model's graph asks for
};

// the frozen tokens of one sequence, or of several that were forked from one
struct ckv_block {
    ckv_seq_set seqs; // none: nobody sees the rows, they go with the next move

    llama_pos pos_frozen = 0; // upstream's positions before this one are in the block or evicted

    std::vector<std::vector<llama_pos>> pos; // (n_layers of the cache, rows of the block in that layer), ascending, as in ckv.h
};

// where the tokens of a sequence are to upstream and to RoPE, after positions were taken out
struct ckv_numbering {
    std::vector<llama_pos> kept; // token kept[i] is at position i

    llama_pos first_live = 0; // tokens from this one on are at their own position less n_rebased
    llama_pos n_rebased  = 0;

    llama_pos position(llama_pos token) const;
};

struct ckv_seq {
    std::vector<llama_pos> ring_pos; // (window,) position whose query a ring row holds, -1: none
    std::vector<llama_pos> protect;  // tokens that are never evicted, ascending
    std::vector<uint32_t>  reserved; // (n_layers of the cache,) prefix rows, see llama_ckv_reserve; empty: none

    ckv_numbering numbering;
};

// a cell of the tail on its way to another place
struct ckv_cell {
    uint32_t    cell;
    ckv_seq_set seqs;
};

// what a move of rows makes of the cache
struct ckv_layout {
    std::vector<ckv_block>            blocks;
    std::vector<std::vector<int32_t>> rows;  // (n_layers, rows of all blocks) where these rows are now
    std::vector<ckv_cell>             cells; // they become cells 0, 1, ...

    uint32_t n_tail = 0;
};

// indices into positions(ikv, seq_id) that a layer keeps, ascending
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
    uint32_t n_used(llama_seq_id seq_id) const;

    std::vector<uint32_t> tail_cells(llama_seq_id seq_id) const; // used cells in order of position; -1: of any sequence

    //
    // the prefix
    //

    void reset();
    void clear(uint32_t n_tail_max);

    uint32_t n_prefix(int32_t ikv) const; // rows of all blocks
    uint32_t n_prefix(int32_t ikv, llama_seq_id seq_id) const;
    uint32_t max_prefix() const;
    uint32_t n_prefix_columns() const; // of the mask: a row each, or with several sequences a block each

    // rows behind the tail that nobody sees, where a device reads whole steps of rows
    uint32_t n_filler(int32_t ikv) const;
    uint32_t max_filler() const;

    bool is_aligned(const ggml_tensor & view, int32_t ikv) const; // may the device of this layer read from there?

    std::vector<llama_pos> positions(int32_t ikv, llama_seq_id seq_id) const; // prefix, then tail, as in ckv.h
    std::vector<int32_t>   rows     (int32_t ikv, llama_seq_id seq_id) const; // the tensor rows that hold them

    // rows for prefix and tail of the sequence's coming compressions; contents stay
    //   n_prefix: (n_layers of the cache,)
    bool reserve_rows(llama_seq_id seq_id, const std::vector<uint32_t> & n_prefix);

    // indices into positions(ikv, seq_id) that are never evicted
    std::vector<int32_t> pinned(int32_t ikv, llama_seq_id seq_id) const;

    // replace the sequence's rows in every layer by the kept ones and leave its window in the tail; on failure the cache is
    // unchanged, or empty if a layer had been moved already
    bool gather(llama_seq_id seq_id, const std::vector<ckv_kept> & kept);

    // the same for any layout
    bool rebuild(const ckv_layout & layout);

    // blocks and cells of the others; of seq_id the given cells stay
    ckv_layout layout_without(llama_seq_id seq_id, const std::vector<uint32_t> & live) const;
    void       add_block(ckv_layout & layout, ckv_block block, const std::vector<std::vector<int32_t>> & rows) const;

    //
    // sequences (ckv-seq.cpp)
    //

    bool several() const; // whether the context may hold more than one sequence

    int32_t   block_of  (llama_seq_id seq_id) const; // -1: nothing of it is frozen
    llama_pos pos_frozen(llama_seq_id seq_id) const; // as upstream counts
    llama_pos n_frozen  (llama_seq_id seq_id) const; // as ckv.h counts

    bool is_shared    (llama_seq_id seq_id) const; // another sequence uses some of its rows
    bool is_all       (llama_seq_id seq_id, llama_pos p0, llama_pos p1) const; // positions p0 .. p1-1 are all of the sequence
    bool can_rm       (llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;
    bool can_rm_window(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0) const;
    bool can_cp       (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) const;

    void leave   (llama_seq_id seq_id); // its prefix and its window, not its cells
    void seq_rm  (llama_seq_id seq_id, llama_pos p0, llama_pos p1);
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
    void seq_keep(llama_seq_id seq_id);

    //
    // positions (ckv-rebase.cpp)
    //

    bool is_alone(llama_seq_id seq_id, const ckv_numbering & next) const; // nothing to move before its keys are rotated
    bool unshare (llama_seq_id seq_id, const ckv_numbering & next);       // its rows become its own; those not in `next` go
    bool rebase  (llama_seq_id seq_id, const ckv_numbering & next);
    void renumber(llama_seq_id seq_id, const ckv_numbering & next);
    ckv_numbering close_gaps(const llama_kv_cache * swa, llama_seq_id seq_id, llama_pos pos, int32_t n_max) const;
    void set_k_rot(ggml_tensor * rot) const;

    //
    // scoring (ckv-score.cpp)
    //

    int32_t ring_row(llama_seq_id seq_id, llama_pos pos) const;

    // ring rows with the queries of the last tokens, oldest first; fewer than `window` after a removal
    std::vector<int32_t> window_rows(llama_seq_id seq_id) const;

    // the same in the long ring, of the only sequence
    std::vector<int32_t> long_rows() const;

    bool keep_queries(uint32_t n_tokens); // false: no memory, nothing is kept

    // attention of the window to every row of the sequence, summed over the window's queries
    //   scores: (1, n_rows) mean over the layer's heads, or (n_heads, n_rows) for max pooling, where the mean comes last
    bool score(int32_t ikv, llama_seq_id seq_id, std::vector<std::vector<float>> & scores);

    // the same attention in one vector, whatever the pooling
    //   scores: (n_rows,)
    bool score(int32_t ikv, llama_seq_id seq_id, enum llama_ckv_reduce reduce, std::vector<float> & scores);

    //
    // saved states (ckv-state.cpp); seq_id -1: all sequences
    //

    void state_write(llama_io_write_i & io, llama_seq_id seq_id) const;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id); // throws std::runtime_error

    //
    // facts
    //

    int32_t  model_layer(int32_t ikv) const;
    int32_t  cache_layer(int32_t il)  const; // -1: not in this cache
    uint32_t n_head     (int32_t ikv) const;
    uint32_t n_head_kv  (int32_t ikv) const;

    ggml_tensor * tensor_k(int32_t ikv) const;
    ggml_tensor * tensor_v(int32_t ikv) const;

    const llama_kv_cells & cells() const;

    size_t kv_bytes()       const; // what is allocated for K and V of all layers
    size_t kv_bytes_stock() const;
    size_t window_bytes()   const;

    void flush(); // nothing of a decode or a pending shift of upstream's is under way any more

    //
    // state
    //

    llama_kv_cache & kv;
    llama_context  * lctx = nullptr;

    const ckv_settings settings;
    const uint32_t     n_ctx; // positions of the context

    std::vector<ckv_layer> layers;
    std::vector<ckv_block> blocks; // in the order of their rows in every layer
    std::vector<ckv_seq>   seqs;   // (n_seq_max,)

    std::vector<llama_pos> long_pos; // (n_long,) as ckv_seq's ring_pos, see llama_ckv_keep_queries()

    uint64_t generation = 0; // counts changes of tensors, prefix or scheduler: no graph outlives one

    bool restoring = false; // between the prefix and the cells of a state

    // of the graph under construction
    ggml_tensor * k_idxs     = nullptr; // I64 [n_tokens] rows of the tail, until the values take them as well
    ggml_tensor * tap_tokens = nullptr; // I32 [n] tokens whose queries go to the ring; null: the last n
    ggml_tensor * tap_rows   = nullptr; // I64 [n] ring rows
    ggml_tensor * long_tap   = nullptr; // I64 [n_long or fewer] rows of the long ring
    ggml_tensor * mask_t     = nullptr; // F16 [n_tokens, columns of the mask]

    std::vector<std::pair<int32_t, ggml_tensor *>> masks; // (layer, its mask), one of each kind

    size_t  bytes_peak  = 0;
    int32_t n_evictions = 0;
    double  eviction_ms = 0.0;

    std::vector<uint32_t> row_steps; // (n_layers of the cache,) rows that the layer's device reads at a time; empty: a dry run

private:
    // a cancelled decode leaves whole rows behind, a cancelled move would not
    struct no_abort {
        explicit no_abort(llama_context * lctx);
        ~no_abort();

        llama_context     * lctx;
        ggml_abort_callback callback = nullptr;
        void              * data     = nullptr;
    };

    // how the window's attention crosses to the host: one vector, or one a head (apart), or the maxima of each KV group
    enum ckv_sums { CKV_SUMS_MEAN, CKV_SUMS_APART, CKV_SUMS_MAX };

    bool attention(int32_t ikv, llama_seq_id seq_id, ckv_sums sums, std::vector<std::vector<float>> & scores);

    bool alloc  (int32_t ikv, uint32_t n_rows, ckv_store & store) const;
    bool fill   (int32_t ikv, const std::vector<int32_t> & rows, const ckv_store & store);
    void install(int32_t ikv, ckv_store & store);
    bool move_layer(int32_t ikv, const ckv_layout & layout, bool & moved);
    bool resize_rows    (const std::vector<uint32_t> & n_rows);
    bool replace_tensors(const std::vector<uint32_t> & n_rows);
    bool fits_in_place(int32_t ikv, uint32_t n_rows) const;
    void place_tails(uint32_t n_tail); // after each change of tensors, prefix or tail
    void place_columns(int32_t ikv);
    ckv_store current(int32_t ikv) const;
    void resize_cells(const std::vector<uint32_t> & live, uint32_t n_tail);
    void set_cells   (const std::vector<ckv_cell> & live, uint32_t n_tail);
    void release_compute();

    uint32_t first_row (int32_t ikv, int32_t block) const;
    uint32_t pad_rows  (int32_t ikv, uint32_t n_rows) const; // as this layer's device reads them
    void     find_row_steps();
    uint32_t n_rows_min(int32_t ikv) const; // the tensors never shrink below
    uint32_t tail_for  (const ckv_layout & layout, uint32_t n_more) const;
    bool     nobody_else(llama_seq_id seq_id) const;
    void     copy_ring (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p1);
    void     make_room (llama_seq_id seq_id, const std::vector<ckv_block> & added, uint32_t n_cells);
};

// a small graph on the context's scheduler: build, alloc(), set the inputs, compute(), read the outputs
struct ckv_graph {
    ckv_graph(llama_ckv & ckv, size_t n_nodes);

    bool alloc();
    bool compute();

    ggml_tensor * input    (const char * name, ggml_tensor * t) const;
    ggml_tensor * input_i32(const char * name, int64_t n) const;
    ggml_tensor * input_f32(const char * name, int64_t n0, int64_t n1) const;
    ggml_tensor * output(ggml_tensor * t) const;

    llama_ckv      & ckv;
    ggml_context_ptr ctx;
    ggml_cgraph    * gf;
};

// ckv-store.cpp: how many rows from `first` on are neighbours
size_t ckv_run_length(const std::vector<int32_t> & rows, size_t first);

// ckv-model.cpp
bool        ckv_find_settings(const llama_model * model, ckv_settings & settings); // false: no profile attached
std::string ckv_unsupported(const llama_model * model);                            // why, or "" if it can be compressed

// ckv-api.cpp: remember the sentence for llama_ckv_last_error() and return the status
int32_t ckv_fail(enum llama_ckv_status status, const std::string & sentence);
