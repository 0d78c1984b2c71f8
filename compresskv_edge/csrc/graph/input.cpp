#include "graph/input.h"

#include "core/fault.h"
#include "graph/compute.h"

#include <memory>

ckv_graph_input & ckv_graph_input::of(const llm_graph_context & graph, llama_ckv & ckv) {
    for (const auto & input : graph.res->inputs) {
        auto * res = dynamic_cast<ckv_graph_input *>(input.get());
        if (res && &res->ckv == &ckv) {
            return *res;
        }
    }
    ckv_fault_throw();

    return *static_cast<ckv_graph_input *>(graph.res->add_input(std::make_unique<ckv_graph_input>(ckv)));
}

void ckv_graph_input::set_input(const llama_ubatch * ubatch) {
    if (!tap_rows) {
        return;
    }
    ckv_fault_throw();

    const auto taps = ckv_find_taps(ckv, *ubatch);

    std::vector<int32_t> tokens;
    std::vector<int64_t> rows;

    for (auto tap = taps.rbegin(); tap != taps.rend(); ++tap) {
        tokens.push_back(tap->token);
        rows  .push_back(ckv.ring_row(tap->seq_id, tap->pos));

        ckv.seqs[tap->seq_id].ring.set(tap->pos);
    }

    if (tap_tokens) {
        ckv_set(tap_tokens, tokens.data());
    }
    ckv_set(tap_rows, rows.data());

    if (long_rows) {
        set_long_rows(*ubatch);
    }
}

void ckv_graph_input::set_long_rows(const llama_ubatch & ubatch) {
    std::vector<int64_t> data;
    for (int64_t i = ubatch.n_tokens - long_rows->ne[0]; i < ubatch.n_tokens; ++i) {
        data.push_back(ckv.long_ring.row(ubatch.pos[i]));
        ckv.long_ring.set(ubatch.pos[i]);
    }
    ckv_set(long_rows, data.data());
}

bool ckv_graph_input::can_reuse(const llm_graph_params & params) {
    const auto & ubatch = params.ubatch;

    return generation == ckv.generation && tap_rows && tap_rows->ne[0] == ckv_count_taps(ckv, ubatch) &&
        !tap_tokens == ckv_taps_are_last(ckv, ubatch) && (!long_rows || long_rows->ne[0] == ckv_count_long(ckv, ubatch));
}
