// libFuzzer: a state from a stranger is read or refused, and the context goes on. Its argument is a model: a small GGUF,
// in CKV_FUZZ_MODEL. An input edits a good state: four bytes each, an offset and a value

#include "ckv.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

static constexpr int32_t N_CTX = 256; // what llama.cpp pads to

static llama_model *        fuzz_model;
static llama_context *      fuzz_ctx;
static std::vector<uint8_t> fuzz_state; // of a compressed sequence

static void fuzz_check(bool good, const char * what) {
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, llama_ckv_last_error());
        abort();
    }
}

static void fuzz_decode(llama_pos first, int32_t n_tokens) {
    llama_batch batch = llama_batch_init(n_tokens, 0, 1);
    for (int32_t i = 0; i < n_tokens; ++i) {
        batch.token[i]     = 40 + i % 50;
        batch.pos[i]       = first + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = i == n_tokens - 1;
    }
    batch.n_tokens = n_tokens;
    fuzz_check(llama_decode(fuzz_ctx, batch) == 0, "decode");
    llama_batch_free(batch);
}

static void fuzz_compress() {
    const std::vector<int32_t> budgets(llama_model_n_layer(fuzz_model), 24);
    fuzz_check(llama_ckv_compress(fuzz_ctx, 0, budgets.data()) == LLAMA_CKV_OK, "compress");
}

static void fuzz_open(const char * path) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr); // refusals are many

    fuzz_model = llama_model_load_from_file(path, llama_model_default_params());
    fuzz_check(fuzz_model, path);

    const int32_t n_layer = llama_model_n_layer(fuzz_model);

    const std::vector<int32_t> heads(n_layer, 0);
    const llama_ckv_profile    profile = { n_layer, 1, heads.data(), 8, 5, LLAMA_CKV_POOLING_AVG, 32 };
    fuzz_check(llama_ckv_attach(fuzz_model, &profile) == LLAMA_CKV_OK, "attach");

    llama_context_params params = llama_context_default_params();
    params.n_ctx           = N_CTX;
    params.n_batch         = 64;
    params.n_threads       = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    fuzz_ctx = llama_init_from_model(fuzz_model, params);
    fuzz_check(fuzz_ctx, "context");
}

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    const char * path = getenv("CKV_FUZZ_MODEL");
    fuzz_check(path, "CKV_FUZZ_MODEL");
    fuzz_open(path);

    fuzz_decode(0, 40);
    fuzz_compress();
    fuzz_decode(40, 5);

    fuzz_state.resize(llama_state_seq_get_size(fuzz_ctx, 0));
    fuzz_check(llama_state_seq_get_data(fuzz_ctx, fuzz_state.data(), fuzz_state.size(), 0) == fuzz_state.size(), "state");

    return 0;
}

// most of a state is rows, where any byte is good: half of the edits are in what comes before them
static std::vector<uint8_t> fuzz_edited(const uint8_t * data, size_t size) {
    std::vector<uint8_t> res = fuzz_state;
    for (; size >= 4; data += 4, size -= 4) {
        const size_t at = data[0] | data[1] << 8 | (data[2] & 127) << 16;
        res[at % (data[2] & 128 ? 512 : res.size())] = data[3];
    }
    if (size > 0) {
        res.resize(res.size() - res.size()*data[0]/1024); // cut short
    }
    return res;
}

// what the cache says of itself
static int32_t fuzz_look() {
    llama_ckv_seq_stats stats;
    fuzz_check(llama_ckv_get_seq_stats(fuzz_ctx, 0, &stats) == LLAMA_CKV_OK, "stats");

    int32_t n_held = 0;
    for (int32_t il = 0; il < llama_model_n_layer(fuzz_model); ++il) {
        const int32_t n = llama_ckv_positions(fuzz_ctx, 0, il, nullptr, 0);
        fuzz_check(n >= 0 && n <= N_CTX, "positions");
        n_held += n;
    }
    return n_held;
}

// a graph takes most of the time: of what was refused, one in 64 goes on, of what was read, one in 8 is compressed as well
static void fuzz_go_on(bool was_read, uint32_t seed) {
    if (was_read) {
        const llama_pos next = llama_memory_seq_pos_max(llama_get_memory(fuzz_ctx), 0) + 1;
        if (next < N_CTX) {
            fuzz_decode(next, 1);
        }
        if (seed % 8 == 0) {
            llama_ckv_compress(fuzz_ctx, 0, std::vector<int32_t>(llama_model_n_layer(fuzz_model), 24).data()); // or is refused
            fuzz_look();
        }
    } else if (seed % 64 == 0) {
        fuzz_decode(0, 30);
        fuzz_compress();
    }
    fuzz_check(llama_memory_seq_rm(llama_get_memory(fuzz_ctx), 0, -1, -1), "remove");
    fuzz_check(fuzz_look() == 0, "empty");
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const auto state = fuzz_edited(data, size);

    const size_t n_read = llama_state_seq_set_data(fuzz_ctx, state.data(), state.size(), 0);
    fuzz_check(n_read <= state.size(), "read");

    const int32_t n_held = fuzz_look();
    fuzz_check(n_read > 0 || n_held == 0, "a state that was refused leaves an empty sequence");

    uint32_t seed = (uint32_t) size;
    for (size_t i = 0; i < size; ++i) {
        seed = 31*seed + data[i];
    }
    fuzz_go_on(n_read > 0, seed);

    return 0;
}
