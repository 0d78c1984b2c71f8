#include "cache/settings.h"

#include <map>
#include <mutex>

static std::mutex ckv_mutex;

static std::map<const llama_model *, ckv_settings> & ckv_attached() {
    static std::map<const llama_model *, ckv_settings> table;
    return table;
}

bool ckv_find_settings(const llama_model * model, ckv_settings & settings) {
    std::lock_guard<std::mutex> lock(ckv_mutex);

    const auto it = ckv_attached().find(model);
    if (it == ckv_attached().end()) {
        return false;
    }
    settings = it->second;

    return true;
}

void ckv_attach_settings(const llama_model * model, const ckv_settings & settings) {
    std::lock_guard<std::mutex> lock(ckv_mutex);
    ckv_attached()[model] = settings;
}

void ckv_detach_settings(const llama_model * model) {
    std::lock_guard<std::mutex> lock(ckv_mutex);
    ckv_attached().erase(model);
}
