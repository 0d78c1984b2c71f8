#pragma once

// Where the tokens of a sequence are to upstream and to RoPE, after positions were taken out.

#include "core/types.h"

struct ckv_numbering {
    std::vector<llama_pos> kept; // token kept[i] is at position i

    llama_pos first_live = 0; // tokens from this one on are at their own position less n_rebased
    llama_pos n_rebased  = 0;

    llama_pos position(llama_pos token) const;
    bool      holds   (llama_pos token) const;
};

// Kept tokens go to 0, 1, ..., the live ones behind them: these move by a multiple of the window, so that their ring rows
// stay. The oldest tokens that are not protected are dropped until the next position is n_max or less
//   held: tokens before `first_live` that some layer of the sequence holds, ascending
//   first_live: as ckv.h counts    n_live: positions from there to the next one
ckv_numbering ckv_close_gaps(const ckv_numbering & before, std::vector<llama_pos> held, const std::vector<llama_pos> & protect,
        llama_pos first_live, int32_t n_live, int32_t window, int32_t n_max);
