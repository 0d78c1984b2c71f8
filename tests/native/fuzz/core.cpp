// libFuzzer: any history of a cache leaves every sequence its own tokens, and any selection keeps what it must

#include "../core/layout_model.h"
#include "core/select.h"

#include <cstdlib>
#include <cstring>

struct fuzz_bytes {
    const uint8_t * data;
    size_t          size;

    uint8_t next() { return size > 0 ? (--size, *data++) : 0; }
};

static void fuzz_check(bool good) {
    if (!good) {
        abort();
    }
}

static void fuzz_history(fuzz_bytes bytes) {
    model_cache cache;

    for (int step = 0; bytes.size > 0 && step < 300; ++step) {
        const uint8_t what = bytes.next();
        const auto    s    = (llama_seq_id) (what/16 % N_SEQ);

        switch (what % 12) {
            case 0:  cache.compress(s, [&] { return bytes.next() % 2 == 0; }); break;
            case 1:  cache.fork(s, (llama_seq_id) (bytes.next() % N_SEQ));     break;
            case 2:  cache.remove(s);                                          break;
            case 3:  cache.unshare(s);                                         break;
            default: cache.decode(s);                                          break;
        }
        fuzz_check(cache.is_consistent());
    }
}

// scores may be anything, NaN and infinities included
static void fuzz_selection(fuzz_bytes bytes) {
    const int32_t window = 1 + bytes.next() % 8;
    const int32_t budget = window + bytes.next() % 64;
    const int32_t kernel = 1 + 2*(bytes.next() % 4);
    const auto    pool   = bytes.next() % 2 ? CKV_POOLING_MAX : CKV_POOLING_AVG;

    std::vector<double> scores;
    for (float x = 0.0f; bytes.size >= sizeof(x); bytes.data += sizeof(x), bytes.size -= sizeof(x)) {
        memcpy(&x, bytes.data, sizeof(x));
        scores.push_back(x);
    }
    const auto n = (int32_t) scores.size();
    if (n <= budget) {
        return;
    }

    const auto kept = ckv_select({ scores, scores }, window, budget, kernel, pool, { 0 });

    fuzz_check((int32_t) kept.size() == budget);
    for (int32_t i = 0; i < budget; ++i) {
        fuzz_check(kept[i] >= 0 && kept[i] < n && (i == 0 || kept[i] > kept[i - 1]));
    }
    fuzz_check(kept[budget - window] == n - window);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    if (size > 0) {
        data[0] % 2 ? fuzz_history({ data + 1, size - 1 }) : fuzz_selection({ data + 1, size - 1 });
    }
    return 0;
}
