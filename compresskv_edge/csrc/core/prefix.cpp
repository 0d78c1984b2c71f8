#include "core/prefix.h"

#include <algorithm>
#include <numeric>

std::vector<int32_t> ckv_run(uint32_t first, uint32_t n) {
    std::vector<int32_t> res(n);
    std::iota(res.begin(), res.end(), (int32_t) first);
    return res;
}

size_t ckv_run_length(const std::vector<int32_t> & rows, size_t first) {
    size_t n = 1;
    while (first + n < rows.size() && rows[first + n] == rows[first] + (int32_t) n) {
        n++;
    }
    return n;
}

uint32_t ckv_prefix::first_row(size_t ikv, size_t block) const {
    size_t res = 0;
    for (size_t b = 0; b < block; ++b) {
        res += blocks[b].pos[ikv].size();
    }
    return (uint32_t) res;
}

uint32_t ckv_prefix::n_rows(size_t ikv) const {
    return first_row(ikv, blocks.size());
}

uint32_t ckv_prefix::n_rows(size_t ikv, llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);
    return b < 0 ? 0 : (uint32_t) blocks[b].pos[ikv].size();
}

bool ckv_prefix::same_rows(size_t a, size_t b) const {
    return std::all_of(blocks.begin(), blocks.end(), [=](const ckv_block & block) { return block.pos[a].size() == block.pos[b].size(); });
}

int32_t ckv_prefix::block_of(llama_seq_id seq_id) const {
    for (size_t b = 0; b < blocks.size(); ++b) {
        if (blocks[b].seqs.test(seq_id)) {
            return (int32_t) b;
        }
    }
    return -1;
}

llama_pos ckv_prefix::pos_frozen(llama_seq_id seq_id) const {
    const int32_t b = block_of(seq_id);
    return b < 0 ? 0 : blocks[b].pos_frozen;
}

bool ckv_prefix::is_dead() const {
    return !blocks.empty() && std::all_of(blocks.begin(), blocks.end(), [](const ckv_block & block) { return block.seqs.none(); });
}

bool ckv_prefix::is_all(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos pos_max) const {
    return p0 <= 0 && p1 > pos_max && p1 >= pos_frozen(seq_id);
}

bool ckv_prefix::can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos pos_max) const {
    return p0 >= pos_frozen(seq_id) || p1 <= 0 || is_all(seq_id, p0, p1, pos_max);
}

bool ckv_prefix::can_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) const {
    const int32_t b = block_of(seq_id_src);

    if (seq_id_src == seq_id_dst || b < 0 || p0 >= pos_frozen(seq_id_src)) {
        return true;
    }

    const int32_t b_dst = block_of(seq_id_dst);

    return p0 <= 0 && p1 >= pos_frozen(seq_id_src) && (b_dst < 0 || b_dst == b);
}

void ckv_prefix::leave(llama_seq_id seq_id) {
    for (auto & block : blocks) {
        block.seqs.reset(seq_id);
    }
}

std::vector<llama_pos> ckv_prefix::held(llama_seq_id seq_id, llama_pos first_live) const {
    std::vector<llama_pos> res;

    const int32_t b = block_of(seq_id);
    if (b < 0) {
        return res;
    }
    for (const auto & pos : blocks[b].pos) {
        res.insert(res.end(), pos.begin(), std::lower_bound(pos.begin(), pos.end(), first_live));
    }
    std::sort(res.begin(), res.end());
    res.erase(std::unique(res.begin(), res.end()), res.end());

    return res;
}

std::vector<llama_pos> ckv_prefix::positions(size_t ikv, llama_seq_id seq_id, const ckv_cells & own, llama_pos n_rebased) const {
    const int32_t b = block_of(seq_id);

    std::vector<llama_pos> res;
    if (b >= 0) {
        res = blocks[b].pos[ikv];
    }
    for (const auto & cell : own) {
        res.push_back(cell.pos + n_rebased);
    }
    return res;
}

std::vector<int32_t> ckv_prefix::rows(size_t ikv, llama_seq_id seq_id, const ckv_cells & own) const {
    std::vector<int32_t> res = ckv_run(first_row(ikv, (size_t) std::max(block_of(seq_id), 0)), n_rows(ikv, seq_id));

    const uint32_t n = n_rows(ikv);
    for (const auto & cell : own) {
        res.push_back((int32_t) (n + cell.cell));
    }
    return res;
}
