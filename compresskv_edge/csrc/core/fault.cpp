#include "core/fault.h"

#include <new>

struct ckv_faults {
    int32_t n_seen = 0;
    int32_t nth    = 0;
    bool    throws = false;
};

static thread_local ckv_faults ckv_planned; // of the thread that calls: others go on undisturbed

int32_t ckv_fault_set(int32_t nth, bool throws) noexcept {
    const int32_t res = ckv_planned.n_seen;
    ckv_planned = { 0, nth, throws };
    return res;
}

bool ckv_fault() {
    if (++ckv_planned.n_seen != ckv_planned.nth) {
        return false;
    }
    if (ckv_planned.throws) {
        throw std::bad_alloc();
    }
    return true;
}

void ckv_fault_throw() {
    if (ckv_fault()) {
        throw std::bad_alloc();
    }
}
