# Toolchain: 64-bit Windows with Debian's cross compiler (g++-mingw-w64-x86-64-posix). The code may use AVX2, as in ggml's
# own default for other machines. Debian 12's headers are older than Windows 8's declarations that ggml would use.
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc-posix)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_C_FLAGS_INIT -D_WIN32_WINNT=0x601)
set(CMAKE_CXX_FLAGS_INIT -D_WIN32_WINNT=0x601)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(GGML_NATIVE OFF CACHE BOOL "not this machine")
set(GGML_OPENMP OFF CACHE BOOL "its library is not on Windows")
