// Semantic scores on the device that holds the layer (arXiv:2508.02401, eq. 2 and 3): the arithmetic of
// compresskv_edge/scoring.py up to the pooling, which needs one float a token and runs on the host.

#include "ckv-cache.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cmath>
#include <map>

int32_t llama_ckv::ring_row(llama_seq_id seq_id, llama_pos pos) const {
    return seq_id*settings.window + pos % settings.window;
}

// rows of a ring with the last tokens, oldest first; ring_pos: the position that each row holds
static std::vector<int32_t> ckv_ring_rows(const std::vector<llama_pos> & ring_pos, llama_pos last) {
    const int32_t n = ring_pos.size();

    std::vector<int32_t> res;
    for (llama_pos pos = last; pos >= 0 && pos > last - n && ring_pos[pos % n] == pos; --pos) {
        res.push_back(pos % n);
    }
    std::reverse(res.begin(), res.end());

    return res;
}

std::vector<int32_t> llama_ckv::window_rows(llama_seq_id seq_id) const {
    auto res = ckv_ring_rows(seqs[seq_id].ring_pos, cells().seq_pos_max(seq_id));
    for (auto & row : res) {
        row += ring_row(seq_id, 0);
    }
    return res;
}

std::vector<int32_t> llama_ckv::long_rows() const {
    return ckv_ring_rows(long_pos, cells().seq_pos_max(0));
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

// query i of the window sees its keys 0 .. i: (n_window, n_window)
static std::vector<float> ckv_causal(size_t n_window) {
    std::vector<float> res(n_window*n_window, 0.0f);
    for (size_t i = 0; i < n_window; ++i) {
        std::fill(res.begin() + i*n_window + i + 1, res.begin() + (i + 1)*n_window, -INFINITY);
    }
    return res;
}

// k.q: [n_rows, n_window, n_heads]
static ggml_tensor * ckv_dot(ggml_context * ctx, ggml_tensor * k, ggml_tensor * q, int64_t n_heads) {
    ggml_tensor * kq = ggml_mul_mat(ctx, k, q);
    ggml_prec_set_acc(kq, GGML_PREC_F32);

    return ggml_reshape_3d(ctx, kq, k->ne[1], q->ne[1]/n_heads, n_heads);
}

// attention of a group to every row: [n_rows, n_window, n_heads]
//   k_past: [n_embd_head, n_rows - n_window], may be null    k_window: [n_embd_head, n_window]
//   q: [n_embd_head, n_window*n_heads], head by head, oldest first    causal: [n_window, n_window]
// the two parts are apart because Metal has no DIAG_MASK_INF, and a mask of all rows would have to cross from the host
static ggml_tensor * ckv_window_attention(
        ggml_context * ctx, ggml_tensor * k_past, ggml_tensor * k_window, ggml_tensor * q, ggml_tensor * causal, int64_t n_heads, float scale) {
    ggml_tensor * kq = ggml_add(ctx, ckv_dot(ctx, k_window, q, n_heads), causal);
    if (k_past) {
        kq = ggml_concat(ctx, ckv_dot(ctx, k_past, q, n_heads), kq, 0);
    }
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

bool llama_ckv::score(int32_t ikv, llama_seq_id seq_id, std::vector<std::vector<float>> & scores) {
    // average pooling is linear: the sum over the heads may come first, and one vector crosses to the host
    return attention(ikv, seq_id, settings.pooling == LLAMA_CKV_POOLING_MAX ? CKV_SUMS_APART : CKV_SUMS_MEAN, scores);
}

bool llama_ckv::score(int32_t ikv, llama_seq_id seq_id, enum llama_ckv_reduce reduce, std::vector<float> & scores) {
    std::vector<std::vector<float>> parts;
    if (!attention(ikv, seq_id, reduce == LLAMA_CKV_REDUCE_MAX ? CKV_SUMS_MAX : CKV_SUMS_MEAN, parts)) {
        return false;
    }

    scores = parts[0];
    for (const auto & part : parts) {
        std::transform(part.begin(), part.end(), scores.begin(), scores.begin(), [](float a, float b) { return std::max(a, b); });
    }

    return true;
}

bool llama_ckv::attention(int32_t ikv, llama_seq_id seq_id, ckv_sums sums_as, std::vector<std::vector<float>> & scores) {
    const auto & heads = settings.heads[model_layer(ikv)];

    const auto groups = ckv_group_heads(heads, n_head(ikv)/n_head_kv(ikv));
    const auto rows_k = rows(ikv, seq_id);
    const auto rows_q = window_rows(seq_id);

    const size_t n_window = rows_q.size();
    const size_t n_past   = rows_k.size() - n_window;

    ckv_graph graph(*this, 16 + 28*groups.size());

    auto * ctx = graph.ctx.get();

    ggml_tensor * k = tensor_k(ikv);
    ggml_tensor * q = layers[ikv].q; // [n_embd_head*n_head, window*n_seq_max]

    const int64_t d = k->ne[0]/n_head_kv(ikv);

    ggml_tensor * q_heads = ggml_view_2d(ctx, q, d, n_head(ikv)*q->ne[1], ggml_row_size(q->type, d), 0); // row: window, head

    ggml_tensor * idx_past   = n_past > 0 ? graph.input_i32("ckv_rows_past", n_past) : nullptr;
    ggml_tensor * idx_window = graph.input_i32("ckv_rows_window", n_window);
    ggml_tensor * causal     = graph.input_f32("ckv_causal", n_window, n_window);

    std::vector<ggml_tensor *> idx_q;
    std::vector<ggml_tensor *> sums;

    for (const auto & group : groups) {
        idx_q.push_back(graph.input_i32("ckv_rows_q", rows_q.size()*group.heads.size()));

        // dequantised: a matrix product with f16 or q8_0 rows would round the queries to that type
        ggml_tensor * k_g = ggml_view_2d(ctx, k, d, k->ne[1], k->nb[1], group.head_kv*ggml_row_size(k->type, d));
        ggml_tensor * q_g = ggml_get_rows(ctx, q_heads, idx_q.back());

        ggml_tensor * k_past   = idx_past ? ggml_get_rows(ctx, k_g, idx_past) : nullptr;
        ggml_tensor * k_window = ggml_get_rows(ctx, k_g, idx_window);

        ggml_tensor * kq  = ckv_window_attention(ctx, k_past, k_window, q_g, causal, group.heads.size(), layers[ikv].scale);
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

    if (idx_past) {
        ggml_backend_tensor_set(idx_past, rows_k.data(), 0, ggml_nbytes(idx_past));
    }
    ggml_backend_tensor_set(idx_window, rows_k.data() + n_past, 0, ggml_nbytes(idx_window));

    const auto mask = ckv_causal(n_window);
    ggml_backend_tensor_set(causal, mask.data(), 0, ggml_nbytes(causal));

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
