// Self-test without Python, for boards and emulators: one prompt, one compression, a few tokens.
//
//     ckv-selftest MODEL.gguf < case.txt
//
// stdin, numbers apart by white space (written by tests/selftest_case.py):
//     n_layer n_heads window kernel pooling n_tail n_predict n_tokens
//     heads (n_layer, n_heads)    budgets (n_layer)    tokens (n_tokens)
// stdout, the same on every machine that computes alike:
//     kept <layer> <positions...>    a line a layer
//     tokens <tokens...>             greedy; the first one comes from the full prompt

#include "ckv.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <vector>

static std::vector<int32_t> read(size_t n) {
    std::vector<int32_t> res(n);
    for (auto & value : res) {
        std::cin >> value;
    }
    if (!std::cin) {
        fprintf(stderr, "ckv-selftest: the case on stdin is too short\n");
        exit(2);
    }
    return res;
}

static void check(int32_t status, const char * what) {
    if (status < 0) {
        fprintf(stderr, "ckv-selftest: %s failed (%d): %s\n", what, status, llama_ckv_last_error());
        exit(1);
    }
}

static llama_token best(llama_context * ctx, int32_t n_vocab) {
    const float * logits = llama_get_logits_ith(ctx, -1);
    return std::max_element(logits, logits + n_vocab) - logits;
}

static void decode(llama_context * ctx, llama_token * tokens, int32_t n) {
    for (int32_t i = 0; i < n; i += 512) {
        check(-llama_decode(ctx, llama_batch_get_one(tokens + i, std::min(512, n - i))), "llama_decode");
    }
}

static void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: ckv-selftest MODEL.gguf < case.txt\n");
        return 2;
    }

    const auto head = read(8);
    const int32_t n_layer = head[0], n_heads = head[1], n_predict = head[6], n_tokens = head[7];

    const auto heads   = read(n_layer*n_heads);
    const auto budgets = read(n_layer);
    auto       tokens  = read(n_tokens);

    llama_log_set(quiet, nullptr);
    llama_backend_init();

    auto model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        fprintf(stderr, "ckv-selftest: cannot load %s\n", argv[1]);
        return 1;
    }

    const llama_ckv_profile profile = { n_layer, n_heads, heads.data(), head[2], head[3], head[4], head[5] };
    check(llama_ckv_attach(model, &profile), "llama_ckv_attach");

    auto params = llama_context_default_params();
    params.n_ctx           = n_tokens + n_predict;
    params.n_batch         = params.n_ubatch = 512;
    params.n_threads       = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) {
        check(-1, "llama_init_from_model");
    }

    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));

    check(llama_ckv_prompt_begin(ctx, 0, n_tokens), "llama_ckv_prompt_begin");
    decode(ctx, tokens.data(), n_tokens);

    std::vector<llama_token> answer = { best(ctx, n_vocab) };
    check(llama_ckv_prompt_end(ctx, 0, budgets.data()), "llama_ckv_prompt_end");

    for (int32_t il = 0; il < n_layer; ++il) {
        std::vector<llama_pos> kept(n_tokens);
        const int32_t n = llama_ckv_positions(ctx, 0, il, kept.data(), n_tokens);
        check(n, "llama_ckv_positions");
        printf("kept %d", il);
        for (int32_t i = 0; i < n; ++i) {
            printf(" %d", kept[i]);
        }
        printf("\n");
    }

    while ((int32_t) answer.size() < n_predict) {
        decode(ctx, &answer.back(), 1);
        answer.push_back(best(ctx, n_vocab));
    }
    printf("tokens");
    for (const auto token : answer) {
        printf(" %d", token);
    }
    printf("\n");

    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
