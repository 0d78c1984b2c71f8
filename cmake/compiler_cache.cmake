# ggml looks for ccache in every configuration and puts it before every command: installed later, it would change them
# all, and everything would be compiled again. What a build tree was first configured with stays.

if (NOT DEFINED CACHE{GGML_CCACHE})
    find_program(CKV_COMPILER_CACHE NAMES ccache sccache)
    mark_as_advanced(CKV_COMPILER_CACHE)
    if (NOT CKV_COMPILER_CACHE)
        set(GGML_CCACHE OFF CACHE BOOL "there was no ccache when this build tree was configured first")
    endif()
endif()
