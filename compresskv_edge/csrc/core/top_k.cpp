#include "core/top_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

//
// top-k. when several scores equal the k-th largest and only some fit, the set is a matter of the algorithm, and plateaus
// are common after max pooling. these are the steps of topk.py, one function each
//

struct ckv_ranking {
    const std::vector<float> & scores;

    std::vector<int32_t> row; // a permutation of the indices

    bool before(int32_t a, int32_t b) const {
        return scores[a] > scores[b] || (std::isnan(scores[a]) && !std::isnan(scores[b]));
    }

    int32_t median(int32_t a, int32_t b, int32_t c) const {
        if (before(row[a], row[b])) {
            return before(row[b], row[c]) ? b : before(row[a], row[c]) ? c : a;
        }
        return before(row[a], row[c]) ? a : before(row[b], row[c]) ? c : b;
    }

    int32_t partition(int32_t first, int32_t last) {
        std::swap(row[first], row[median(first + 1, first + (last - first)/2, last - 1)]);

        const int32_t pivot = row[first];

        int32_t low  = first + 1;
        int32_t high = last  - 1;

        while (true) {
            while (before(row[low], pivot)) {
                low++;
            }
            while (before(pivot, row[high])) {
                high--;
            }
            if (low >= high) {
                return low;
            }
            std::swap(row[low++], row[high--]);
        }
    }

    void insertion_sort(int32_t first, int32_t last) {
        for (int32_t i = first + 1; i < last; ++i) {
            const int32_t item = row[i];

            int32_t j = i;
            for (; j > first && before(item, row[j - 1]); --j) {
                row[j] = row[j - 1];
            }
            row[j] = item;
        }
    }

    void sift(int32_t first, int32_t hole, int32_t size, int32_t item) {
        const int32_t top = hole;

        while (2*hole + 2 < size) {
            int32_t child = 2*hole + 2;
            if (before(row[first + child], row[first + child - 1])) {
                child--;
            }
            row[first + hole] = row[first + child];
            hole = child;
        }
        if (2*hole + 1 < size) {
            row[first + hole] = row[first + 2*hole + 1];
            hole = 2*hole + 1;
        }
        while (hole > top && before(row[first + (hole - 1)/2], item)) {
            row[first + hole] = row[first + (hole - 1)/2];
            hole = (hole - 1)/2;
        }
        row[first + hole] = item;
    }

    void heap_select(int32_t first, int32_t middle, int32_t last) {
        const int32_t size = middle - first;

        for (int32_t hole = (size - 2)/2; size > 1 && hole >= 0; --hole) {
            sift(first, hole, size, row[first + hole]);
        }
        for (int32_t i = middle; i < last; ++i) {
            if (before(row[i], row[first])) {
                const int32_t item = row[i];

                row[i] = row[first];
                sift(first, 0, size, item);
            }
        }
    }

    void intro_select(int32_t nth) {
        int32_t first = 0;
        int32_t last  = (int32_t) row.size();
        int32_t depth = 0;

        for (size_t n = row.size(); n > 1; n /= 2) {
            depth += 2;
        }

        while (last - first > 3) {
            if (depth-- == 0) {
                heap_select(first, nth + 1, last);
                std::swap(row[first], row[nth]);
                return;
            }
            const int32_t cut = partition(first, last);

            (cut <= nth ? first : last) = cut;
        }

        insertion_sort(first, last);
    }
};

std::vector<int32_t> ckv_top_k(const std::vector<float> & scores, int32_t k) {
    ckv_ranking ranking = { scores, std::vector<int32_t>(scores.size()) };

    std::iota(ranking.row.begin(), ranking.row.end(), 0);

    if ((size_t) k*64 <= scores.size()) {
        ranking.heap_select(0, k, (int32_t) scores.size());
    } else {
        ranking.intro_select(k - 1);
    }

    ranking.row.resize(k);
    std::sort(ranking.row.begin(), ranking.row.end());

    return ranking.row;
}
