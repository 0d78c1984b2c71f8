#pragma once

// CompressKV (arXiv:2508.02401) for llama.cpp: the C API. Read this file first.
//
// The KV cache of each full-attention layer holds P_l + T rows:
//
//     row   0 .. P_l-1      the frozen prefix: the tokens that layer l retained, in order of position
//     row P_l .. P_l+T-1    the live tail: upstream's cells, shared by all layers; cell j is row P_l + j
//
// A context may hold several sequences (n_seq_max): each has its own prefix rows, and their tails are in one, as in
// upstream's unified cache (kv_unified = false is the same then: only speed would differ, and n_ctx is the positions of
// every sequence). llama_memory_seq_cp() lets the copy share the prefix, until one of the two is compressed again.
//
// A compression scores prefix and tail with the observation window (the last `window` tokens), chooses the tokens of
// each layer, gathers their rows into a new prefix and leaves the window in the tail. Keys keep their positions (RoPE
// is never undone), decoding goes on at the next position.
//
// Calls return LLAMA_CKV_OK or a negative llama_ckv_status, never abort on bad input, and leave everything as it was
// when they fail; llama_ckv_last_error() then holds a sentence for the user. One exception: memory or a
// device that fails after the first layer's rows have moved leaves an empty cache.
//
// Positions in this header count the tokens of a sequence from its start. They are llama.cpp's own, until llama_ckv_rebase()
// takes n_rebased of them away: from then on those in batches and in llama_memory_*() are less by that number.
//
// Shapes are written outermost first, as in NumPy. Python reads this header through cffi: declarations only, no macros.

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

enum llama_ckv_status {
    LLAMA_CKV_OK              =  0,
    LLAMA_CKV_ERR_ARGUMENT    = -1, // a value out of its range
    LLAMA_CKV_ERR_UNSUPPORTED = -2, // this model or context cannot be compressed
    LLAMA_CKV_ERR_STATE       = -3, // not now: no profile attached, nothing decoded yet, ...
    LLAMA_CKV_ERR_MEMORY      = -4, // an allocation failed
    LLAMA_CKV_ERR_COMPUTE     = -5, // a graph failed to run
};

enum llama_ckv_pooling {
    LLAMA_CKV_POOLING_AVG = 0, // divisor always `kernel`, zero padding
    LLAMA_CKV_POOLING_MAX = 1,
};

// what becomes of the attention that each query of the window pays through each head that scores
enum llama_ckv_reduce {
    LLAMA_CKV_REDUCE_SUM = 0, // sum over the queries, mean over the heads: what a compression pools and sorts
    LLAMA_CKV_REDUCE_MAX = 1, // largest over queries and heads (KVzip, arXiv:2505.23416)
};

// how a model's cache is scored; the budgets come with each compression
struct llama_ckv_profile {
    int32_t         n_layer; // layers of the model
    int32_t         n_heads; // heads that score in a layer (the paper: 4)
    const int32_t * heads;   // (n_layer, n_heads) query heads; -1 ends a row early
    int32_t         window;  // observation window, tokens (the paper: 8)
    int32_t         kernel;  // pooling kernel, odd (the paper: 5)
    int32_t         pooling; // enum llama_ckv_pooling
    int32_t         n_tail;  // rows of the tail after a compression, a sequence (before one, the tail holds the prompt)
};

struct llama_ckv_layer {
    int32_t n_head;     // query heads
    int32_t n_head_kv;  // KV heads; head h reads KV head h / (n_head / n_head_kv)
    int32_t head_dim_k;
    int32_t head_dim_v;
    bool    evictable;  // false: sliding-window layer, bounded already
};

// the whole cache; n_tokens_seen and n_frozen are those of sequence 0
struct llama_ckv_stats {
    int64_t n_tokens_seen;  // tokens decoded so far
    int32_t n_tail_used;    // tokens in the tail: of one sequence, those since its last compression and its window
    int32_t n_tail;         // rows of the tail; decoding more makes it grow
    int32_t n_frozen;       // positions before this one are in the prefix or evicted
    int64_t kv_bytes;       // allocated for K and V now; with window_bytes what llama_memory_breakdown says of the context
    int64_t kv_bytes_peak;
    int64_t kv_bytes_stock; // what the stock cache allocates for this context
    int64_t window_bytes;   // queries of the observation window and of llama_ckv_keep_queries(), all layers
    int32_t n_evictions;
    double  eviction_ms;    // sum over the evictions
};

struct llama_ckv_seq_stats {
    int64_t n_tokens_seen;  // tokens decoded so far
    int32_t n_tail_used;    // of them in the tail
    int32_t n_frozen;       // positions before this one are in the prefix or evicted
    int32_t n_rebased;      // positions that llama_ckv_rebase() has taken away: the next one is n_tokens_seen - n_rebased
    int32_t n_sharing;      // sequences that use this prefix, this one included; 0: no prefix
    int32_t n_queries;      // of the last `window` tokens, those whose queries are known. Fewer after tokens behind them were
                            // removed, or copied or shifted apart: a compression then asks for these tokens to be removed
                            // and decoded again
};

// llama_memory_breakdown, summed over the devices: what the allocators hold
struct llama_ckv_memory {
    int64_t model_bytes;
    int64_t context_bytes;
    int64_t compute_bytes;
};

// "<version of compresskv_edge> llama.cpp <upstream version> <upstream commit> header <SHA-256 of this file>"
LLAMA_API const char * llama_ckv_version(void);

// the sentence that belongs to this thread's last failed call
LLAMA_API const char * llama_ckv_last_error(void);

// the shape of layer il, and whether this model can be compressed at all (LLAMA_CKV_ERR_UNSUPPORTED names the architecture)
LLAMA_API int32_t llama_ckv_model_layer    (const struct llama_model * model, int32_t il, struct llama_ckv_layer * layer);
LLAMA_API int32_t llama_ckv_model_supported(const struct llama_model * model);

// contexts created from `model` after this call use the compressed cache; the arrays are copied.
// freeing the model detaches the profile
LLAMA_API int32_t llama_ckv_attach(const struct llama_model * model, const struct llama_ckv_profile * profile);
LLAMA_API int32_t llama_ckv_detach(const struct llama_model * model);

// a prompt of n_tokens more tokens follows, in any sequence: one allocation for all of it instead of growth step by step
LLAMA_API int32_t llama_ckv_prompt_begin(struct llama_context * ctx, llama_seq_id seq_id, int32_t n_tokens);

// the prompt is decoded: compress if some layer holds more than its budget
//   budgets: (n_layer,) tokens that layer l may keep, window included; ignored where the layer is not evictable
LLAMA_API int32_t llama_ckv_prompt_end  (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets);

// as llama_ckv_prompt_end, but compress even if every layer is within its budget
LLAMA_API int32_t llama_ckv_compress    (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets);

// as llama_ckv_compress, for a question that was decoded ahead of its turn (Finch, arXiv:2408.00167): the last n_guide
// tokens of the tail score the others and are then removed again
LLAMA_API int32_t llama_ckv_compress_guided(struct llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide);

// allocate now what compressions to these budgets need, so that none of them allocates: memory stays flat.
// the tail must not hold more than n_tail tokens
LLAMA_API int32_t llama_ckv_reserve     (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets);

// tokens at these positions are never evicted from now on; they count in the budgets. replaces an earlier set
LLAMA_API int32_t llama_ckv_protect     (struct llama_context * ctx, llama_seq_id seq_id, const llama_pos * positions, int32_t n_positions);

// take out the positions that no layer holds any more, so that decoding can go on where the context or the model's training
// ends: kept tokens get consecutive positions, the same one in every layer, and their keys are rotated by the difference
// (upstream's K-shift, extended to the prefix). If the next position would still be above n_max, the oldest tokens that
// are not protected are dropped. returns the next position as llama.cpp counts.
// LLAMA_CKV_ERR_UNSUPPORTED: no RoPE, or a kind that cannot be shifted
LLAMA_API int32_t llama_ckv_rebase      (struct llama_context * ctx, llama_seq_id seq_id, int32_t n_max);

// compress to a selection made elsewhere
//   kept    : row indices into llama_ckv_positions(), ascending, layers one after the other; the window must be among them
//   kept_len: (n_layer,) how many of them belong to each layer; ignored where the layer is not evictable
LLAMA_API int32_t llama_ckv_keep        (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * kept, const int32_t * kept_len);

// what llama_ckv_compress(), or with n_guide > 0 llama_ckv_compress_guided(), would keep; nothing changes
//   kept    : as for llama_ckv_keep(); room for the sum of the budgets
//   kept_len: (n_layer,) how many of them belong to each layer; 0 where the layer is not evictable
LLAMA_API int32_t llama_ckv_choose      (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * budgets, int32_t n_guide, int32_t * kept, int32_t * kept_len);

// works for every context; without a profile it tells what the stock cache holds
LLAMA_API int32_t llama_ckv_get_stats   (struct llama_context * ctx, struct llama_ckv_stats * stats);

LLAMA_API int32_t llama_ckv_get_seq_stats(struct llama_context * ctx, llama_seq_id seq_id, struct llama_ckv_seq_stats * stats);

// works for every context
LLAMA_API int32_t llama_ckv_get_memory  (struct llama_context * ctx, struct llama_ckv_memory * memory);

// positions of the tokens that layer il holds, ascending. returns their number, also when `positions` is NULL
LLAMA_API int32_t llama_ckv_positions   (struct llama_context * ctx, llama_seq_id seq_id, int32_t il, llama_pos * positions, int32_t n_max);

// attention that the last `window` tokens pay to every token that layer il holds, not pooled
//   scores: (n,) in the order of llama_ckv_positions()
LLAMA_API int32_t llama_ckv_scores      (struct llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t reduce, float * scores);

// from now on keep the queries of the last n_tokens tokens beside those of the window: 4*n_head*head_dim_k bytes a token and
// layer, in window_bytes. 0 frees them. for contexts of one sequence
LLAMA_API int32_t llama_ckv_keep_queries(struct llama_context * ctx, int32_t n_tokens);

// the queries of the last n tokens of layer il as attention saw them (after RoPE, in the cache's basis if the cache is
// quantised and upstream rotates it), scaled so that logits are q.k / sqrt(head_dim_k)
//   n: 1 to the window, or to what llama_ckv_keep_queries() keeps
//   q: (n_head, n, head_dim_k), oldest first
LLAMA_API int32_t llama_ckv_read_queries(struct llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t n, float * q);

// keys and values of layer il, dequantised, in the order of llama_ckv_positions(); either pointer may be NULL
//   k: (n_head_kv, n, head_dim_k)    v: (n_head_kv, n, head_dim_v)
LLAMA_API int32_t llama_ckv_read_kv     (struct llama_context * ctx, llama_seq_id seq_id, int32_t il, float * k, float * v);

// replace keys and values of some rows of layer il; the inverse of llama_ckv_read_kv(): after RoPE, in the cache's basis,
// quantised by ggml on the way in. A sequence that shares rows with a fork gets a copy of its own first
//   rows: (n_rows,) row indices into llama_ckv_positions(), ascending
//   k: (n_head_kv, n_rows, head_dim_k)    v: (n_head_kv, n_rows, head_dim_v); either pointer may be NULL: that half stays
LLAMA_API int32_t llama_ckv_write_kv    (struct llama_context * ctx, llama_seq_id seq_id, int32_t il, const int32_t * rows, int32_t n_rows, const float * k, const float * v);

// a flag that ends a decode. llama_ckv_stop_wanted is the callback of llama_set_abort_callback(), with the flag as its data:
// it is asked after every node of a graph, by threads that compute, while any other thread sets the flag. NULL: no memory
struct llama_ckv_stop;
LLAMA_API struct llama_ckv_stop * llama_ckv_stop_new(void);
LLAMA_API void llama_ckv_stop_free  (struct llama_ckv_stop * stop); // no context must ask it any more
LLAMA_API void llama_ckv_stop_set   (struct llama_ckv_stop * stop, bool wanted);
LLAMA_API bool llama_ckv_stop_wanted(void * stop);

// for tests: the nth allocation or graph that the library does for the cache in this thread from now on fails, once; 0: none
// does. throws: by an exception inside. returns how many there were since the last call
LLAMA_API int32_t llama_ckv_fail_at(int32_t nth, bool throws);

// CompressKV's selection for one layer on given arrays; the specification is compresskv_edge/scoring.py
//   q: (n_head, window, head_dim)    k: (n_head_kv, n_tokens, head_dim)    heads: (n_heads,)
//   kept: (min(budget, n_tokens),) ascending token indices. returns their number
LLAMA_API int32_t llama_ckv_select(
        const float   * q,     int32_t n_head,    int32_t window,
        const float   * k,     int32_t n_head_kv, int32_t n_tokens, int32_t head_dim,
        const int32_t * heads, int32_t n_heads,
        int32_t budget, int32_t kernel, int32_t pooling,
        int64_t * kept);

#ifdef __cplusplus
}
#endif
