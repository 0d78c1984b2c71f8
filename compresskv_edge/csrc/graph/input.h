#pragma once

// What a graph of the model needs of the compressed cache while it is built and each time it runs. It belongs to that
// graph, as upstream's inputs do: a graph that is built in part, or twice, sees no other one's tensors.

#include "cache/cache.h"

#include "llama-graph.h"

#include <utility>
#include <vector>

// where the last queries of a micro-batch go in the rings
struct ckv_tap {
    int32_t      token;
    llama_seq_id seq_id;
    llama_pos    pos;
};

class ckv_graph_input : public llm_graph_input_i {
public:
    explicit ckv_graph_input(llama_ckv & cache) : ckv(cache), generation(cache.generation) {}

    // that of the graph under construction, made by the first layer that asks
    static ckv_graph_input & of(const llm_graph_context & graph, llama_ckv & ckv);

    void set_input(const llama_ubatch * ubatch)     override;
    bool can_reuse(const llm_graph_params & params) override;

    llama_ckv & ckv;

    ggml_tensor * tap_tokens = nullptr; // I32 [n] tokens whose queries go to the ring; null: the last n
    ggml_tensor * tap_rows   = nullptr; // I64 [n] ring rows; null: not built yet, or a dry run
    ggml_tensor * long_rows  = nullptr; // I64 [n_long or fewer] rows of the long ring; null: nobody asked for them

    ggml_tensor * mask_t = nullptr; // F16 [n_tokens, columns of the mask]; null: not needed so far

    std::vector<std::pair<int32_t, ggml_tensor *>> masks; // (layer, its mask), one of each kind

private:
    void set_long_rows(const llama_ubatch & ubatch);

    const uint64_t generation;
};

// graph/tap.cpp: how many queries of a micro-batch are kept, and whether they are its last ones
std::vector<ckv_tap> ckv_find_taps    (const llama_ckv & ckv, const llama_ubatch & ubatch);
int64_t              ckv_count_taps   (const llama_ckv & ckv, const llama_ubatch & ubatch);
int64_t              ckv_count_long   (const llama_ckv & ckv, const llama_ubatch & ubatch);
bool                 ckv_taps_are_last(const llama_ckv & ckv, const llama_ubatch & ubatch);
