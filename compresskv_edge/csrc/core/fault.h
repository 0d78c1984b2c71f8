#pragma once

// For tests: the n-th thing that could fail does. Where memory is allocated and where a graph runs, the code asks.

#include <cstdint>

// 0: nothing fails. throws: as std::bad_alloc, else as the call itself says it. returns how many could have failed since the
// last call
int32_t ckv_fault_set(int32_t nth, bool throws) noexcept;

bool ckv_fault(); // true: fail now

void ckv_fault_throw(); // where only an exception can tell
