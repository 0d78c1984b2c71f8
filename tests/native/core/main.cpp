// csrc/core/ alone: no llama.cpp, no model, no device. Run by tests/test_native_core.py
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
