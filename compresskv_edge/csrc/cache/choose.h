#pragma once

// What a compression keeps: scores on the device, pooling and the choice on the host.

#include "cache/cache.h"

// the tokens that a layer keeps of those before the guide; false: the scores could not be computed
bool ckv_choose(llama_ckv & ckv, llama_seq_id seq_id, int32_t ikv, int32_t budget, int32_t n_guide, ckv_kept & kept);
