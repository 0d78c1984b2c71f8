// Semantic scores on the device that holds the layer (arXiv:2508.02401, eq. 2 and 3): the arithmetic of
// compresskv_edge/scoring.py up to the pooling, which needs one float a token and runs on the host.

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <map>

std::vector<int32_t> llama_ckv::window_rows() const {
    const int32_t   w    = settings.window;
    const llama_pos last = kv.v_cells[0].seq_pos_max(0);

    std::vector<int32_t> res;
    for (llama_pos pos = last; pos >= 0 && pos > last - w && ring_pos[pos % w] == pos; --pos) {
        res.push_back(pos % w);
    }

    std::reverse(res.begin(), res.end());

    return res;
}

// one head: [n_rows] attention, summed over the window's queries
//   k: [n_embd_head, n_rows]    q: [n_embd_head, n_window], oldest first
static ggml_tensor * ckv_window_attention(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, float scale) {
    ggml_tensor * kq = ggml_mul_mat(ctx, k, q); // [n_rows, n_window]
    ggml_prec_set_acc(kq, GGML_PREC_F32);

    kq = ggml_diag_mask_inf(ctx, kq, k->ne[1] - q->ne[1]); // causal inside the window
    kq = ggml_soft_max_ext(ctx, kq, nullptr, scale, 0.0f);
    kq = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_transpose(ctx, kq)));

    return ggml_reshape_1d(ctx, kq, k->ne[1]);
}

bool llama_ckv::score(int32_t ikv, std::vector<std::vector<float>> & scores) {
    const auto & heads = settings.heads[model_layer(ikv)];

    const std::vector<int32_t> rows_k = rows(ikv);
    const std::vector<int32_t> rows_q = window_rows();

    ckv_graph graph(*this, 16 + 12*heads.size());

    auto * ctx = graph.ctx.get();

    ggml_tensor * idx_k = graph.input_i32("ckv_rows_k", rows_k.size());
    ggml_tensor * idx_q = graph.input_i32("ckv_rows_q", rows_q.size());

    ggml_tensor * k = tensor_k(ikv);
    ggml_tensor * q = layers[ikv].q;

    const int64_t d = k->ne[0]/n_head_kv(ikv);

    std::map<int32_t, ggml_tensor *> k_f32; // KV head -> [d, n_rows]: dequantised once for its whole group
    std::vector<ggml_tensor *>       sums;

    for (const int32_t h : heads) {
        const int32_t g = h/(n_head(ikv)/n_head_kv(ikv));

        if (!k_f32[g]) {
            ggml_tensor * k_g = ggml_view_2d(ctx, k, d, k->ne[1], k->nb[1], g*ggml_row_size(k->type, d));
            k_f32[g] = ggml_get_rows(ctx, k_g, idx_k);
        }

        ggml_tensor * q_h = ggml_get_rows(ctx, ggml_view_2d(ctx, q, d, q->ne[1], q->nb[1], h*d*q->nb[0]), idx_q);

        sums.push_back(ckv_window_attention(ctx, k_f32[g], q_h, layers[ikv].scale));
    }

    // average pooling is linear: the mean over the heads may come first, and one vector crosses to the host
    if (settings.pooling == LLAMA_CKV_POOLING_AVG) {
        ggml_tensor * mean = sums[0];
        for (size_t i = 1; i < sums.size(); ++i) {
            mean = ggml_add(ctx, mean, sums[i]);
        }
        sums = { ggml_scale(ctx, mean, 1.0f/heads.size()) };
    }

    for (auto * sum : sums) {
        graph.output(sum);
    }

    if (!graph.alloc()) {
        return false;
    }
    ggml_backend_tensor_set(idx_k, rows_k.data(), 0, ggml_nbytes(idx_k));
    ggml_backend_tensor_set(idx_q, rows_q.data(), 0, ggml_nbytes(idx_q));

    if (!graph.compute()) {
        return false;
    }

    scores.clear();
    for (auto * sum : sums) {
        scores.emplace_back(rows_k.size());
        ggml_backend_tensor_get(sum, scores.back().data(), 0, ggml_nbytes(sum));
    }

    return true;
}
