#include "api/api.h"

#include "core/fault.h"

#include <new>

static thread_local std::string ckv_last_sentence;

int32_t ckv_fail(enum llama_ckv_status status, const char * sentence) noexcept {
    try {
        ckv_last_sentence = sentence;
    } catch (...) {
        ckv_last_sentence.clear(); // the status says it
    }
    return status;
}

int32_t ckv_fail_with_exception() noexcept {
    try {
        throw;
    } catch (const ckv_error & err) {
        return ckv_fail(err.status, err.what());
    } catch (const std::bad_alloc &) {
        return ckv_fail(LLAMA_CKV_ERR_MEMORY, "out of memory");
    } catch (const std::exception & err) {
        return ckv_fail(LLAMA_CKV_ERR_COMPUTE, err.what());
    } catch (...) {
        return ckv_fail(LLAMA_CKV_ERR_COMPUTE, "unknown error");
    }
}

const char * llama_ckv_last_error(void) {
    return ckv_last_sentence.c_str();
}

const char * llama_ckv_version(void) {
    return CKV_VERSION " llama.cpp " CKV_UPSTREAM_VERSION " " CKV_UPSTREAM_COMMIT " header " CKV_HEADER_SHA256;
}

int32_t llama_ckv_fail_at(int32_t nth, bool throws) {
    return ckv_fault_set(nth, throws);
}

void ckv_check_argument(bool good, const char * sentence) {
    if (!good) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, sentence);
    }
}

llama_ckv & ckv_get(llama_context * ctx) {
    ckv_check_argument(ctx, "ctx is NULL");

    llama_ckv * res = ckv_of(ctx);
    if (!res) {
        throw ckv_error(LLAMA_CKV_ERR_STATE, "the context has no compressed KV cache: attach a profile to the model before creating it");
    }
    res->up.lctx = ctx;

    return *res;
}

llama_ckv & ckv_get_seq(llama_context * ctx, llama_seq_id seq_id) {
    llama_ckv & res = ckv_get(ctx);

    if (seq_id < 0 || seq_id >= (llama_seq_id) res.seqs.size()) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "sequence " + std::to_string(seq_id) + " of a context with n_seq_max = " + std::to_string(res.seqs.size()));
    }
    return res;
}

int32_t ckv_get_ikv(const llama_ckv & ckv, int32_t il) {
    const int32_t res = ckv.up.cache_layer(il);

    if (res < 0) {
        throw ckv_error(LLAMA_CKV_ERR_ARGUMENT, "layer " + std::to_string(il) + " does not exist or is not evictable");
    }
    return res;
}

void ckv_throw_moved(const llama_ckv & ckv, const std::string & unchanged) {
    throw ckv_error(LLAMA_CKV_ERR_MEMORY, ckv.up.n_used() > 0 ? unchanged : "moving rows failed; the cache is empty, decode the prompt again");
}
