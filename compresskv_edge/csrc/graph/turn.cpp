#include "graph/turn.h"

#include "llama-impl.h"

// keys or queries in the cache's basis, [n_embd_head, n_head, n] f32
static ggml_tensor * ckv_build_turn(const llama_ckv & ckv, ggml_context * ctx, ggml_tensor * cur, ggml_tensor * shift, ggml_tensor * rot, int32_t ikv) {
    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }
    cur = ckv.up.build_rope(ctx, cur, shift, ikv);

    return rot ? llama_mul_mat_hadamard(ctx, cur, rot) : cur; // its own inverse
}

// read as f32, rotated, stored as the cache stores new keys
bool ckv_turn_rows(llama_ckv & ckv, int32_t ikv, const ckv_turn & turn) {
    const int64_t n = (int64_t) turn.rows.size();
    if (n == 0) {
        return true;
    }

    ckv_graph graph(ckv, 32);
    auto * ctx = graph.ctx.get();

    ggml_tensor * rows  = graph.input_1d("ckv_rows",  GGML_TYPE_I32, n);
    ggml_tensor * shift = graph.input_1d("ckv_shift", GGML_TYPE_I32, n);
    ggml_tensor * to    = graph.input_1d("ckv_to",    GGML_TYPE_I64, n);
    ggml_tensor * rot   = ckv.up.build_k_rot(ctx);

    ggml_tensor * flat = ggml_view_2d(ctx, turn.t, turn.t->ne[0], turn.t->ne[1], turn.t->nb[1], 0);
    ggml_tensor * cur  = ggml_get_rows(ctx, flat, rows);

    cur = ckv_build_turn(ckv, ctx, ggml_reshape_3d(ctx, cur, cur->ne[0]/turn.n_head, turn.n_head, n), shift, rot, ikv);
    cur = ggml_reshape_2d(ctx, cur, turn.t->ne[0], n);

    ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, flat, cur, to));

    if (!graph.alloc()) {
        return false;
    }
    ckv_set(rows,  turn.rows.data());
    ckv_set(shift, turn.shifts.data());
    ckv_set(to,    std::vector<int64_t>(turn.rows.begin(), turn.rows.end()).data());
    if (rot) {
        ckv.up.set_k_rot(rot);
    }

    return graph.compute();
}
