#pragma once

#include "cache/cache.h"

// a small graph on the context's scheduler: build, alloc(), set the inputs, compute(), read the outputs
struct ckv_graph {
    ckv_graph(llama_ckv & cache, size_t n_nodes);

    bool alloc();
    bool compute();

    ggml_tensor * input    (const char * name, ggml_tensor * t) const;
    ggml_tensor * input_1d (const char * name, ggml_type type, int64_t n) const;
    ggml_tensor * input_f32(const char * name, int64_t n0, int64_t n1) const;
    ggml_tensor * output   (ggml_tensor * t) const;

    llama_ckv      & ckv;
    ggml_context_ptr ctx;
    ggml_cgraph    * gf;
};

// all of a tensor's bytes
void ckv_set(ggml_tensor * t, const void * data);
