#include "graph/compute.h"

#include "core/fault.h"

ckv_graph::ckv_graph(llama_ckv & cache, size_t n_nodes) : ckv(cache) {
    ggml_init_params params = {
        /*.mem_size   =*/ 2*n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    ctx.reset(ggml_init(params));
    gf = ggml_new_graph_custom(ctx.get(), n_nodes, false);
}

ggml_tensor * ckv_graph::input(const char * name, ggml_tensor * t) const {
    ggml_set_input(t);
    ggml_set_name(t, name);
    return t;
}

ggml_tensor * ckv_graph::input_1d(const char * name, ggml_type type, int64_t n) const {
    return input(name, ggml_new_tensor_1d(ctx.get(), type, n));
}

ggml_tensor * ckv_graph::input_f32(const char * name, int64_t n0, int64_t n1) const {
    return input(name, ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n0, n1));
}

ggml_tensor * ckv_graph::output(ggml_tensor * t) const {
    ggml_set_output(t);
    ggml_build_forward_expand(gf, t);
    return t;
}

bool ckv_graph::alloc() {
    ckv.generation++; // the kept graph loses its allocation

    return !ckv_fault() && ckv.up.alloc_graph(gf);
}

bool ckv_graph::compute() {
    return !ckv_fault() && ckv.up.compute_graph(gf);
}

void ckv_set(ggml_tensor * t, const void * data) {
    ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
}
