#pragma once

// What upstream knows of a model: which ones can be compressed, and the shapes of their layers.

#include "ckv.h"

#include <string>

std::string ckv_unsupported(const llama_model & model); // why, or "" if it can be compressed
std::string ckv_cannot_shift(const llama_model & model); // why its positions cannot be shifted, or ""

int32_t         ckv_n_layer    (const llama_model & model);
int32_t         ckv_n_head     (const llama_model & model, int32_t il);
llama_ckv_layer ckv_layer_shape(const llama_model & model, int32_t il);
