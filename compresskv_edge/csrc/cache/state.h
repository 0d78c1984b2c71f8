#pragma once

// The prefix in saved states: one section in front of the cells that upstream writes (llama_state_*, llama_state_seq_*).

#include "cache/cache.h"

class llama_io_read_i;
class llama_io_write_i;

// seq_id -1: all sequences
void ckv_write_state(const llama_ckv & ckv, llama_io_write_i & io, llama_seq_id seq_id);
void ckv_read_state (llama_ckv & ckv, llama_io_read_i & io, llama_seq_id seq_id); // throws std::runtime_error

// of the cells that upstream has read behind that: throws std::runtime_error
void ckv_check_cells(const llama_ckv & ckv, llama_seq_id seq_id);

void ckv_drop(llama_ckv & ckv, llama_seq_id seq_id); // the sequence is empty after a failed restore, as upstream leaves it
