#pragma once

// Several sequences in one cache: what removing, forking and keeping a sequence means for the prefix and the windows.
// p0 and p1 are not negative here: positions p0 .. p1-1.

#include "cache/cache.h"

bool ckv_can_rm    (const llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1);                      // -1: every sequence
bool ckv_can_rm_swa(const llama_ckv & ckv, const ckv_swa & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1); // both halves of an interleaved cache

bool ckv_is_shared(const llama_ckv & ckv, llama_seq_id seq_id); // another sequence uses some of its rows

void ckv_leave(llama_ckv & ckv, llama_seq_id seq_id); // its prefix and its window, not its cells

// called before upstream changes the cells, after ckv_can_rm() or ckv_prefix::can_cp() said yes. the queries of tokens that
// come to another position, or whose position others take, are forgotten
void ckv_rm  (llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
void ckv_cp  (llama_ckv & ckv, llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
void ckv_keep(llama_ckv & ckv, llama_seq_id seq_id);
void ckv_forget(llama_ckv & ckv, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
