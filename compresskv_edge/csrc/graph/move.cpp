#include "graph/move.h"

bool ckv_is_made_of_words(const ggml_tensor * t) {
    return t->nb[1] % sizeof(int32_t) == 0;
}

// rows of a tensor as rows of 4-byte words
static ggml_tensor * ckv_as_words(ggml_context * ctx, ggml_tensor * t, int64_t n_rows) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, t->nb[1]/sizeof(int32_t), n_rows);
    res->view_src = t;
    ggml_backend_view_init(res);
    return res;
}

// ggml copies views of equal shape within a device
void ckv_copy_rows(ggml_tensor * from, int64_t first_from, ggml_tensor * to, int64_t first_to, int64_t n) {
    ggml_init_params params = { 2*ggml_tensor_overhead(), NULL, true };
    ggml_context_ptr ctx { ggml_init(params) };

    ggml_tensor * view_from = ggml_view_2d(ctx.get(), from, from->ne[0], n, from->nb[1], first_from*from->nb[1]);
    ggml_tensor * view_to   = ggml_view_2d(ctx.get(), to,   to->ne[0],   n, to->nb[1],   first_to*to->nb[1]);
    ggml_backend_view_init(view_from);
    ggml_backend_view_init(view_to);
    ggml_backend_tensor_copy(view_from, view_to);
}

static void ckv_copy_runs(const ckv_move & move, const std::vector<int32_t> & rows) {
    for (size_t i = 0; i < rows.size();) {
        const size_t n = ckv_run_length(rows, i);

        ckv_copy_rows(move.from, rows[i], move.to, (int64_t) i, (int64_t) n);
        i += n;
    }
}

// neighbours need no graph; rows that are not made of words, or are moved before there is a context, go run by run
static bool ckv_goes_by_runs(const llama_ckv & ckv, const ckv_move & move, const std::vector<int32_t> & rows) {
    return move.from != move.to && (ckv_run_length(rows, 0) == rows.size() || !ckv_is_made_of_words(move.from) || !ckv.up.lctx);
}

bool ckv_move_rows(llama_ckv & ckv, const std::vector<ckv_move> & moves, const std::vector<int32_t> & rows) {
    if (rows.empty()) {
        return true;
    }

    ckv_graph graph(ckv, 8*moves.size());

    auto *        ctx = graph.ctx.get();
    ggml_tensor * idx = graph.input_1d("ckv_rows", GGML_TYPE_I32, (int64_t) rows.size());

    for (const auto & move : moves) {
        if (ckv_goes_by_runs(ckv, move, rows)) {
            ckv_copy_runs(move, rows);
            continue;
        }

        ggml_tensor * words = ggml_get_rows(ctx, ckv_as_words(ctx, move.from, move.from->ne[1]), idx);

        ggml_build_forward_expand(graph.gf, ggml_cpy(ctx, words, ckv_as_words(ctx, move.to, (int64_t) rows.size())));
    }

    if (ggml_graph_n_nodes(graph.gf) == 0) {
        return true;
    }

    if (!graph.alloc()) {
        return false;
    }
    ckv_set(idx, rows.data());

    return graph.compute();
}
