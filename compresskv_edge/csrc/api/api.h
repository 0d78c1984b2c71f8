#pragma once

// Shared by the entries of the C API. Each one validates its arguments, calls a room below, and lets no exception cross
// extern "C".

#include "cache/cache.h"
#include "ckv.h"

#include <stdexcept>
#include <string>

// remember the sentence for llama_ckv_last_error() and return the status
int32_t ckv_fail(enum llama_ckv_status status, const char * sentence) noexcept;

// what an entry refuses, with the sentence for the user
struct ckv_error : std::runtime_error {
    ckv_error(enum llama_ckv_status code, const std::string & sentence) : std::runtime_error(sentence), status(code) {}

    enum llama_ckv_status status;
};

int32_t ckv_fail_with_exception() noexcept; // the one that is being handled

template <typename body_t>
int32_t ckv_guard(body_t && body) noexcept {
    try {
        return body();
    } catch (...) {
        return ckv_fail_with_exception();
    }
}

void ckv_check_argument(bool good, const char * sentence); // throws

// the cache behind a context; they throw what is missing
llama_ckv & ckv_get    (llama_context * ctx);
llama_ckv & ckv_get_seq(llama_context * ctx, llama_seq_id seq_id);
int32_t     ckv_get_ikv(const llama_ckv & ckv, int32_t il);

// a move that failed: the cache is as it was, or empty
[[noreturn]] void ckv_throw_moved(const llama_ckv & ckv, const std::string & unchanged);
