#include "cache/choose.h"

#include "graph/score.h"

bool ckv_choose(llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, int32_t budget, int32_t n_guide, ckv_kept & kept) {
    const uint32_t n_tokens = ckv.prefix.n_rows(ikv, seq_id) + ckv.up.n_used(seq_id) - n_guide;

    if ((int32_t) n_tokens <= budget) {
        kept = ckv_run(0, n_tokens);
        return true;
    }

    std::vector<std::vector<float>> scores;
    if (!ckv_score(ckv, ikv, seq_id, scores)) {
        return false;
    }

    std::vector<std::vector<double>> exact;
    for (const auto & x : scores) {
        exact.emplace_back(x.begin(), x.begin() + n_tokens);
    }
    kept = ckv_select(exact, (int32_t) ckv.settings.window, budget, (int32_t) ckv.settings.kernel, ckv.settings.pooling, ckv.pinned(ikv, seq_id));

    return true;
}
