#pragma once

// shared by the files of the C API: the cache behind a context, with the error that belongs to each miss

#include "ckv-cache.h"

int32_t ckv_get      (llama_context * ctx, llama_ckv ** res);
int32_t ckv_get_seq  (llama_context * ctx, llama_seq_id seq_id, llama_ckv ** res);
int32_t ckv_get_layer(llama_context * ctx, llama_seq_id seq_id, int32_t il, llama_ckv ** res, int32_t * ikv);

llama_kv_cache * ckv_swa(llama_context * ctx); // the sliding-window half of an interleaved cache, or null
