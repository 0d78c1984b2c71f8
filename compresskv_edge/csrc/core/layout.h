#pragma once

// What a move of rows makes of the cache: which rows are gathered in front, and which cells stay behind them.

#include "core/prefix.h"
#include "core/types.h"

// a cell of the tail on its way to another place
struct ckv_placed {
    uint32_t    cell;
    ckv_seq_set seqs;
};

struct ckv_layout {
    std::vector<ckv_block>            blocks;
    std::vector<std::vector<int32_t>> rows;  // (n_layers, rows of all blocks) where these rows are now
    std::vector<ckv_placed>           cells; // they become cells 0, 1, ...

    uint32_t n_tail = 0;

    // rows: (n_layers, rows of the block)
    void add(ckv_block block, const std::vector<std::vector<int32_t>> & rows_of_block);
};

// rows that every tail has, and steps in which it grows beyond them
struct ckv_tail_size {
    uint32_t window;
    uint32_t n_tail; // rows of the tail, a sequence
    uint32_t n_ctx;
    uint32_t step;
};

// blocks and cells of the others; of seq_id the cells in `live` stay. blocks that nobody sees are left out
//   tail: the used cells of all sequences, in order of position
ckv_layout ckv_layout_without(const ckv_prefix & prefix, size_t n_layer, const std::vector<ckv_placed> & tail,
        llama_seq_id seq_id, const ckv_cells & live);

// adds what a compression leaves of seq_id: a block of the kept tokens before the window
//   own: the sequence's cells without those of a guide, of which the last `window` stay    kept: (n_layers,)
void ckv_layout_keep(ckv_layout & layout, const ckv_prefix & prefix, llama_seq_id seq_id, const ckv_cells & own,
        llama_pos n_rebased, uint32_t window, const std::vector<ckv_kept> & kept);

// adds seq_id alone in its block and cells, without the positions that are not in `next`
void ckv_layout_own(ckv_layout & layout, const ckv_prefix & prefix, llama_seq_id seq_id, const ckv_cells & own, const ckv_numbering & next);

// a tail for every sequence in use, and always room for the live cells, n_more to come and a window
uint32_t ckv_tail_for(const ckv_layout & layout, uint32_t n_more, const ckv_tail_size & size);

uint32_t ckv_pad(uint32_t n, uint32_t step);

// rows of a tail that must hold n_need tokens: grown in steps, up to the context where that is enough
uint32_t ckv_grown(uint32_t n_need, const ckv_tail_size & size);
