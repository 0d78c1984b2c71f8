# Toolchain: 64-bit ARM Linux with Debian's cross compiler (g++-aarch64-linux-gnu). armv8.2-a with dotprod and fp16 is what
# a Raspberry Pi 5 and a Jetson Orin have; a Pi 4 needs -DGGML_CPU_ARM_ARCH=armv8-a.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(GGML_NATIVE OFF CACHE BOOL "not this machine")
set(GGML_CPU_ARM_ARCH armv8.2-a+dotprod+fp16 CACHE STRING "what the code may use")
