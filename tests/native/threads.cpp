// Threads that use the library as the server's do, for ThreadSanitizer: two slots decode and compress, each in a context of
// its own over the same weights; the event loop stops them and tells its tokens; another model comes and goes. Its
// argument is a small GGUF

#include "ckv.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

static constexpr int32_t N_PROMPT  = 64;
static constexpr int32_t N_DECODED = 10; // behind the prompt
static constexpr int32_t N_ROUNDS  = 4;
static constexpr int32_t BUDGET    = 32;

static void check(bool good, const char * what) {
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, llama_ckv_last_error());
        abort();
    }
}

static llama_model * load(const char * path) {
    llama_model * model = llama_model_load_from_file(path, llama_model_default_params());
    check(model, path);

    const int32_t n_layer = llama_model_n_layer(model);

    const std::vector<int32_t> heads(n_layer, 0);
    const llama_ckv_profile    profile = { n_layer, 1, heads.data(), 8, 5, LLAMA_CKV_POOLING_AVG, 32 };
    check(llama_ckv_attach(model, &profile) == LLAMA_CKV_OK, "attach");

    return model;
}

// one slot: a context, and the thread that decodes in it
struct slot {
    slot(llama_model * m, int32_t n_threads) : model(m), stop(llama_ckv_stop_new()) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx           = 512;
        params.n_batch         = 64;
        params.n_threads       = params.n_threads_batch = n_threads;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        ctx = llama_init_from_model(model, params);
        check(ctx && stop, "context");
        llama_set_abort_callback(ctx, llama_ckv_stop_wanted, stop);
    }

    ~slot() {
        llama_free(ctx);
        llama_ckv_stop_free(stop);
    }

    // false: it was stopped
    bool decode(llama_pos first, int32_t n_tokens) {
        std::vector<llama_token> tokens;
        for (int32_t i = 0; i < n_tokens; ++i) {
            tokens.push_back(40 + (first + i)*7 % 50);
        }
        const int32_t res = llama_decode(ctx, llama_batch_get_one(tokens.data(), n_tokens));
        check(res == 0 || res == 2, "decode");
        return res == 0;
    }

    // false: it was stopped
    bool compress() {
        const int32_t res = llama_ckv_prompt_end(ctx, 0, std::vector<int32_t>(llama_model_n_layer(model), BUDGET).data());
        check(res == LLAMA_CKV_OK || llama_ckv_stop_wanted(stop), "compress");
        return res == LLAMA_CKV_OK;
    }

    // what the server tells of the cache when a generation is over
    void remember() {
        llama_ckv_stats  stats;
        llama_ckv_memory memory;
        check(llama_ckv_get_stats(ctx, &stats) == LLAMA_CKV_OK && llama_ckv_get_memory(ctx, &memory) == LLAMA_CKV_OK, "stats");
        n_seen = stats.n_tokens_seen;
    }

    bool answer() {
        llama_memory_clear(llama_get_memory(ctx), false);
        for (llama_pos pos = 0; pos < N_PROMPT; pos += 32) {
            if (!decode(pos, 32)) {
                return false;
            }
        }
        if (!compress()) {
            return false;
        }
        for (int32_t i = 0; i < N_DECODED; ++i) {
            if (!decode(N_PROMPT + i, 1)) {
                return false;
            }
        }
        return true;
    }

    // as sessions are saved and opened, between two answers
    void save_and_load() {
        std::vector<uint8_t> state(llama_state_get_size(ctx));
        check(llama_state_get_data(ctx, state.data(), state.size()) == state.size(), "save");
        check(llama_state_set_data(ctx, state.data(), state.size()) == state.size(), "load");
    }

    void run() {
        for (round = 0; round < N_ROUNDS; ++round) {
            llama_ckv_stop_set(stop, false);
            n_whole += answer();
            remember();
            save_and_load();
        }
        check(n_whole >= N_ROUNDS/2, "answers");
    }

    // the server's wish, in every other round
    void interrupt() const {
        if (round % 2 == 1) {
            llama_ckv_stop_set(stop, true);
        }
    }

    bool is_done() const {
        return round == N_ROUNDS;
    }

    llama_model    * model;
    llama_ckv_stop * stop;
    llama_context  * ctx;

    int32_t n_whole = 0; // answers that nobody stopped

    std::atomic<int64_t> n_seen   { 0 };
    std::atomic<int32_t> round    { 0 };
};

// prompts of the next requests, and the wish to stop
static void event_loop(llama_model * model, slot & first, slot & second) {
    const auto *      vocab = llama_model_get_vocab(model);
    const std::string text  = "Which code opens the lantern?";

    while (!first.is_done() || !second.is_done()) {
        std::vector<llama_token> tokens(64);
        const int32_t n = llama_tokenize(vocab, text.data(), (int32_t) text.size(), tokens.data(), (int32_t) tokens.size(), true, true);
        check(n > 0, "tokenize");

        char piece[64];
        check(llama_token_to_piece(vocab, tokens[0], piece, sizeof(piece), 0, true) >= 0, "piece");
        check(llama_ckv_select(nullptr, 1, 1, nullptr, 1, 1, 1, nullptr, 1, 1, 1, 0, nullptr) < 0 && strlen(llama_ckv_last_error()) > 0, "error");

        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        first.interrupt();
        second.interrupt();
    }
}

// a change of models
static void come_and_go(const char * path, const slot & first) {
    do {
        llama_model * model = load(path);
        {
            slot other(model, 1);
            check(other.answer(), "answer");
        }
        llama_model_free(model);
    } while (!first.is_done());
}

int main(int argc, char ** argv) {
    check(argc == 2, "give one small GGUF");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr); // aborts are errors to llama.cpp

    llama_model * model = load(argv[1]);
    {
        slot first(model, 2), second(model, 1);

        std::vector<std::thread> threads;
        threads.emplace_back([&] { first.run(); });
        threads.emplace_back([&] { second.run(); });
        threads.emplace_back([&] { event_loop(model, first, second); });
        threads.emplace_back([&] { come_and_go(argv[1], first); });
        for (auto & thread : threads) {
            thread.join();
        }
        printf("%d and %d of %d answers were not stopped\n", first.n_whole, second.n_whole, N_ROUNDS);
    }
    llama_model_free(model);

    return 0;
}
