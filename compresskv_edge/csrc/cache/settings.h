#pragma once

// Profiles attached to models. A profile hangs on the model, not on llama_context_params: no struct that bindings mirror
// gets a field.

#include "cache/cache.h"

bool ckv_find_settings  (const llama_model * model, ckv_settings & settings); // false: no profile attached
void ckv_attach_settings(const llama_model * model, const ckv_settings & settings);
void ckv_detach_settings(const llama_model * model);
