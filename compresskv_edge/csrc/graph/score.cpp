#include "graph/score.h"

#include <algorithm>
#include <cmath>
#include <map>

// how the window's attention crosses to the host: one vector, or one a head (apart), or the maxima of each KV group
enum ckv_sums { CKV_SUMS_MEAN, CKV_SUMS_APART, CKV_SUMS_MAX };

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

// the graph of one layer: its inputs, and what it computes
struct ckv_scoring {
    ckv_scoring(llama_ckv & cache, int32_t layer, llama_seq_id seq_id);

    void build(enum ckv_sums sums_as);
    bool run(std::vector<std::vector<float>> & scores);

    ggml_tensor * build_group(const ckv_group & group, enum ckv_sums sums_as);
    void          set_inputs() const;

    llama_ckv & ckv;
    int32_t     ikv;

    std::vector<ckv_group> groups;
    std::vector<int32_t>   rows_k; // of all tokens
    std::vector<int32_t>   rows_q; // of the window, in the ring

    size_t n_window;
    size_t n_past;

    ckv_graph graph;

    ggml_tensor * idx_past = nullptr; // null: the window is all
    ggml_tensor * idx_window;
    ggml_tensor * causal;

    std::vector<ggml_tensor *> idx_q; // (n_groups,)
    std::vector<ggml_tensor *> sums;
};

static std::vector<ckv_group> ckv_groups_of(const llama_ckv & ckv, int32_t ikv) {
    return ckv_group_heads(ckv.settings.heads[ckv.up.model_layer(ikv)], (int32_t) (ckv.up.n_head(ikv)/ckv.up.n_head_kv(ikv)));
}

ckv_scoring::ckv_scoring(llama_ckv & cache, int32_t layer, llama_seq_id seq_id) :
    ckv(cache), ikv(layer), groups(ckv_groups_of(ckv, ikv)), rows_k(ckv.rows(ikv, seq_id)), rows_q(ckv.window_rows(seq_id)),
    n_window(rows_q.size()), n_past(rows_k.size() - n_window), graph(ckv, 16 + 28*groups.size()) {
    if (n_past > 0) {
        idx_past = graph.input_1d("ckv_rows_past", GGML_TYPE_I32, (int64_t) n_past);
    }
    idx_window = graph.input_1d ("ckv_rows_window", GGML_TYPE_I32, (int64_t) n_window);
    causal     = graph.input_f32("ckv_causal", (int64_t) n_window, (int64_t) n_window);
}

ggml_tensor * ckv_scoring::build_group(const ckv_group & group, enum ckv_sums sums_as) {
    auto * ctx = graph.ctx.get();

    ggml_tensor * k = ckv.up.k(ikv);
    ggml_tensor * q = ckv.layers[ikv].q; // [n_embd_head*n_head, window*n_seq_max]

    const int64_t n_head = ckv.up.n_head(ikv);
    const int64_t d      = q->ne[0]/n_head;

    idx_q.push_back(graph.input_1d("ckv_rows_q", GGML_TYPE_I32, (int64_t) (rows_q.size()*group.heads.size())));

    ggml_tensor * q_heads = ggml_view_2d(ctx, q, d, n_head*q->ne[1], ggml_row_size(q->type, d), 0); // row: window, head

    // dequantised: a matrix product with f16 or q8_0 rows would round the queries to that type
    ggml_tensor * k_g = ggml_view_2d(ctx, k, d, k->ne[1], k->nb[1], group.head_kv*ggml_row_size(k->type, d));
    ggml_tensor * q_g = ggml_get_rows(ctx, q_heads, idx_q.back());

    ggml_tensor * k_past   = idx_past ? ggml_get_rows(ctx, k_g, idx_past) : nullptr;
    ggml_tensor * k_window = ggml_get_rows(ctx, k_g, idx_window);

    ggml_tensor * kq = ckv_window_attention(ctx, k_past, k_window, q_g, causal, (int64_t) group.heads.size(), ckv.layers[ikv].scale);

    return sums_as == CKV_SUMS_MAX ? ckv_max_queries(ctx, kq) : ckv_sum_queries(ctx, kq, sums_as == CKV_SUMS_APART);
}

void ckv_scoring::build(enum ckv_sums sums_as) {
    auto * ctx = graph.ctx.get();

    for (const auto & group : groups) {
        ggml_tensor * sum = build_group(group, sums_as);

        if (sums_as == CKV_SUMS_MEAN && !sums.empty()) {
            sums.back() = ggml_add(ctx, sums.back(), sum);
        } else {
            sums.push_back(sum);
        }
    }
    if (sums_as == CKV_SUMS_MEAN) {
        sums = { ggml_scale(ctx, sums.back(), 1.0f/(float) ckv.settings.heads[ckv.up.model_layer(ikv)].size()) };
    }

    for (auto * sum : sums) {
        graph.output(sum);
    }
}

void ckv_scoring::set_inputs() const {
    if (idx_past) {
        ckv_set(idx_past, rows_k.data());
    }
    ckv_set(idx_window, rows_k.data() + n_past);
    ckv_set(causal, ckv_causal(n_window).data());

    for (size_t i = 0; i < groups.size(); ++i) {
        std::vector<int32_t> data;
        for (const int32_t h : groups[i].heads) {
            for (const int32_t row : rows_q) {
                data.push_back(row*(int32_t) ckv.up.n_head(ikv) + h);
            }
        }
        ckv_set(idx_q[i], data.data());
    }
}

bool ckv_scoring::run(std::vector<std::vector<float>> & scores) {
    if (!graph.alloc()) {
        return false;
    }
    set_inputs();

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

static bool ckv_score_as(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, enum ckv_sums sums_as, std::vector<std::vector<float>> & scores) {
    ckv_scoring scoring(ckv, ikv, seq_id);
    scoring.build(sums_as);

    return scoring.run(scores);
}

bool ckv_score(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, std::vector<std::vector<float>> & scores) {
    // average pooling is linear: the sum over the heads may come first, and one vector crosses to the host
    return ckv_score_as(ckv, ikv, seq_id, ckv.settings.pooling == CKV_POOLING_MAX ? CKV_SUMS_APART : CKV_SUMS_MEAN, scores);
}

bool ckv_score(llama_ckv & ckv, int32_t ikv, llama_seq_id seq_id, enum llama_ckv_reduce reduce, std::vector<float> & scores) {
    std::vector<std::vector<float>> parts;
    if (!ckv_score_as(ckv, ikv, seq_id, reduce == LLAMA_CKV_REDUCE_MAX ? CKV_SUMS_MAX : CKV_SUMS_MEAN, parts)) {
        return false;
    }

    scores = parts[0];
    for (const auto & part : parts) {
        std::transform(part.begin(), part.end(), scores.begin(), scores.begin(), [](float a, float b) { return std::max(a, b); });
    }

    return true;
}
