#pragma once

// What the patched upstream files call. Every hook takes the cache's llama_ckv and returns at once, with the stock
// answer, when it is null: without a profile upstream runs unchanged.

#include "ggml.h"
#include "llama.h"

#include <memory>
#include <vector>

struct ggml_context;
struct ggml_tensor;

struct llama_context;
struct llama_ubatch;
struct llm_graph_context;
struct llama_model;
class  llama_kv_cache;
class  llama_io_read_i;
class  llama_io_write_i;

struct llama_ckv;

struct llama_ckv_deleter {
    void operator()(llama_ckv * ckv) const;
};

using llama_ckv_ptr = std::unique_ptr<llama_ckv, llama_ckv_deleter>;

// called from ~llama_model through llama_model_free
extern "C" LLAMA_API int32_t llama_ckv_detach(const llama_model * model);

// construction: null unless a profile is attached to the model and the cache has no sliding window.
// kv_size comes in as the positions of the context and goes out as the first rows of the tail
llama_ckv_ptr ckv_create(llama_kv_cache & kv, uint32_t & kv_size);
bool          ckv_unified(const llama_model & model, uint32_t n_seq_max, bool unified); // several compressed sequences are in one buffer, always
void          ckv_adopt (llama_ckv * ckv);                          // one buffer a layer, query rings beside it
void          ckv_bind  (llama_ckv * ckv, llama_context * lctx);    // the context whose device queue must be idle before rows move
bool          ckv_reserve(llama_ckv * ckv, const std::vector<llama_ubatch> & ubatches); // grow the tail for a batch

// sequence operations
void ckv_reset        (llama_ckv * ckv);
bool ckv_seq_rm       (llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1); // false: it would reach into the prefix
bool ckv_can_cp       (const llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1); // false: logged
bool ckv_seq_cp       (llama_ckv * ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
void ckv_seq_keep     (llama_ckv * ckv, llama_seq_id seq_id);
bool ckv_seq_rm_iswa  (const llama_kv_cache & swa, const llama_ckv * ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1); // false: one of the two caches cannot
bool ckv_can_shift    (const llama_ckv * ckv);                      // whether upstream may shift what is not frozen
bool ckv_refuses_shift(llama_ckv * ckv, llama_seq_id seq_id);       // logged: a compressed sequence has llama_ckv_rebase()

// saved states: the prefix comes before the cells; a failed restore leaves an empty cache
void ckv_state_write(const llama_ckv * ckv, llama_io_write_i & io, llama_seq_id seq_id);

struct ckv_restore {
    ckv_restore(llama_ckv * cache, llama_io_read_i & io, llama_seq_id seq);
    ~ckv_restore();

    void check() const; // throws if the cells that upstream read, which believes any position, are none of this context

    llama_ckv  * ckv;
    llama_seq_id seq_id;
};

// what a decode throws, a hook or upstream's own code, must not leave the C API: it is logged, and becomes a status.
// upstream takes the micro-batch out again as if its graph had failed. the one hook that stock contexts have as well
void ckv_log_exception() noexcept;

template <typename body_t>
auto ckv_catch(enum ggml_status & status, body_t && body) -> decltype(body()) {
    try {
        return body();
    } catch (...) {
        ckv_log_exception();
        status = GGML_STATUS_ALLOC_FAILED;
        return nullptr;
    }
}

template <typename body_t>
int32_t ckv_catch(body_t && body) {
    try {
        return body();
    } catch (...) {
        ckv_log_exception();
        return -2; // of llama_decode(): memory
    }
}

// graph
uint32_t      ckv_more_rows   (const llama_ckv * ckv, int32_t ikv); // of cache layer ikv beside those of the cells: prefix and filler
uint32_t      ckv_more_columns(const llama_ckv * ckv);              // of the mask beside those of the cells
ggml_tensor * ckv_tail      (ggml_context * ctx, const llama_ckv * ckv, int32_t ikv, ggml_tensor * kv); // [n_embd_gqa, n_tail]
ggml_tensor * ckv_build_mask(const llm_graph_context & graph, llama_ckv * ckv, ggml_tensor * kq_mask, int32_t il); // [more_rows(il) + n_kv, n_tokens]
void          ckv_build_tap (const llm_graph_context & graph, llama_ckv * ckv, ggml_tensor * q, float kq_scale, int32_t il);

// dst [more_columns + n_kv, n_tokens] holds n_tokens rows of n_kv columns, packed: spread them, show each token its prefix,
// hide the filler
void          ckv_extend_mask(const llama_ckv * ckv, ggml_tensor * dst, int64_t n_kv, const llama_ubatch * ubatch);
