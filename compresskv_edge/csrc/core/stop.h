#pragma once

#include <atomic>

// a wish that another thread may look at while it is set
struct llama_ckv_stop {
    std::atomic<bool> wanted { false };
};
