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

// the heads of a layer that read one KV head
struct ckv_group {
    int32_t head_kv;

    std::vector<int32_t> heads;
};

static std::vector<ckv_group> ckv_group_heads(const std::vector<int32_t> & heads, int32_t n_per_group) {
    std::map<int32_t, std::vector<int32_t>> by_head_kv;
    for (const int32_t h : heads) {
        by_head_kv[h/n_per_group].push_back(h);
    }

    std::vector<ckv_group> res;
    for (const auto & [g, members] : by_head_kv) {
        res.push_back({ g, members });
    }

    return res;
}

// attention of a group to every row
//   k: [n_embd_head, n_rows]    q: [n_embd_head, n_window*n_heads], head by head, oldest first
//   returns [n_rows, n_window, n_heads]
static ggml_tensor * ckv_window_attention(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, int64_t n_heads, float scale) {
    const int64_t n_rows   = k->ne[1];
    const int64_t n_window = q->ne[1]/n_heads;

    ggml_tensor * kq = ggml_mul_mat(ctx, k, q);
    ggml_prec_set_acc(kq, GGML_PREC_F32);

    kq = ggml_reshape_3d(ctx, kq, n_rows, n_window, n_heads);
    kq = ggml_diag_mask_inf(ctx, kq, n_rows - n_window); // causal inside the window

    return ggml_soft_max_ext(ctx, kq, nullptr, scale, 0.0f);
}

// sum over the window's queries: [n_rows, 1] over the heads as well, or [n_rows, n_heads]
static ggml_tensor * ckv_sum_queries(ggml_context * ctx, ggml_tensor * kq, bool apart) {
    const int64_t n_rows = kq->ne[0];

    if (!apart) {
        kq = ggml_reshape_3d(ctx, kq, n_rows, kq->ne[1]*kq->ne[2], 1);
    }
    kq = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, kq, 1, 0, 2, 3)));

    return ggml_reshape_2d(ctx, kq, n_rows, ggml_nelements(kq)/n_rows);
}

// largest over queries and heads: [n_rows, 1]. ggml has no maximum over rows, but finds where it is
static ggml_tensor * ckv_max_queries(ggml_context * ctx, ggml_tensor * kq) {
    const int64_t n_rows = kq->ne[0];
    const int64_t n      = kq->ne[1]*kq->ne[2];

    kq = ggml_cont(ctx, ggml_transpose(ctx, ggml_reshape_2d(ctx, kq, n_rows, n)));

    ggml_tensor * where = ggml_reshape_2d(ctx, ggml_argmax(ctx, kq), 1, n_rows);

    return ggml_reshape_2d(ctx, ggml_get_rows(ctx, ggml_reshape_3d(ctx, kq, 1, n, n_rows), where), n_rows, 1);
}

bool llama_ckv::score(int32_t ikv, std::vector<std::vector<float>> & scores) {
    // average pooling is linear: the sum over the heads may come first, and one vector crosses to the host
    return attention(ikv, settings.pooling == LLAMA_CKV_POOLING_MAX ? CKV_SUMS_APART : CKV_SUMS_MEAN, scores);
}

bool llama_ckv::score(int32_t ikv, enum llama_ckv_reduce reduce, std::vector<float> & scores) {
    std::vector<std::vector<float>> parts;
    if (!attention(ikv, reduce == LLAMA_CKV_REDUCE_MAX ? CKV_SUMS_MAX : CKV_SUMS_MEAN, parts)) {
        return false;
    }

    scores = parts[0];
    for (const auto & part : parts) {
        std::transform(part.begin(), part.end(), scores.begin(), scores.begin(), [](float a, float b) { return std::max(a, b); });
    }

    return true;
}

bool llama_ckv::attention(int32_t ikv, ckv_sums sums_as, std::vector<std::vector<float>> & scores) {
    const auto & heads = settings.heads[model_layer(ikv)];

    const auto groups = ckv_group_heads(heads, n_head(ikv)/n_head_kv(ikv));
    const auto rows_k = rows(ikv);
    const auto rows_q = window_rows();

    ckv_graph graph(*this, 16 + 24*groups.size());

    auto * ctx = graph.ctx.get();

    ggml_tensor * k = tensor_k(ikv);
    ggml_tensor * q = layers[ikv].q; // [n_embd_head*n_head, window]

    const int64_t d = k->ne[0]/n_head_kv(ikv);

    ggml_tensor * q_heads = ggml_view_2d(ctx, q, d, n_head(ikv)*q->ne[1], ggml_row_size(q->type, d), 0); // row: window, head

    ggml_tensor * idx_k = graph.input_i32("ckv_rows_k", rows_k.size());

    std::vector<ggml_tensor *> idx_q;
    std::vector<ggml_tensor *> sums;

    for (const auto & group : groups) {
        idx_q.push_back(graph.input_i32("ckv_rows_q", rows_q.size()*group.heads.size()));

        // dequantised: a matrix product with f16 or q8_0 rows would round the queries to that type
        ggml_tensor * k_g = ggml_get_rows(ctx, ggml_view_2d(ctx, k, d, k->ne[1], k->nb[1], group.head_kv*ggml_row_size(k->type, d)), idx_k);
        ggml_tensor * q_g = ggml_get_rows(ctx, q_heads, idx_q.back());

        ggml_tensor * kq  = ckv_window_attention(ctx, k_g, q_g, group.heads.size(), layers[ikv].scale);
        ggml_tensor * sum = sums_as == CKV_SUMS_MAX ? ckv_max_queries(ctx, kq) : ckv_sum_queries(ctx, kq, sums_as == CKV_SUMS_APART);

        sums.push_back(sums_as != CKV_SUMS_MEAN || sums.empty() ? sum : ggml_add(ctx, sums.back(), sum));
    }
    if (sums_as == CKV_SUMS_MEAN) {
        sums = { ggml_scale(ctx, sums.back(), 1.0f/heads.size()) };
    }

    for (auto * sum : sums) {
        graph.output(sum);
    }

    if (!graph.alloc()) {
        return false;
    }

    ggml_backend_tensor_set(idx_k, rows_k.data(), 0, ggml_nbytes(idx_k));
    for (size_t i = 0; i < groups.size(); ++i) {
        std::vector<int32_t> data;
        for (const int32_t h : groups[i].heads) {
            for (const int32_t row : rows_q) {
                data.push_back(row*n_head(ikv) + h);
            }
        }
        ggml_backend_tensor_set(idx_q[i], data.data(), 0, ggml_nbytes(idx_q[i]));
    }

    if (!graph.compute()) {
        return false;
    }

    scores.clear();
    for (auto * sum : sums) {
        for (int64_t i = 0; i < sum->ne[1]; ++i) {
            scores.emplace_back(rows_k.size());
            ggml_backend_tensor_get(sum, scores.back().data(), i*sum->nb[1], sum->nb[1]);
        }
    }

    return true;
}
