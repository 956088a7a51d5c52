# Sources that are compiled once per instruction set. The code chooses a set at run time
# (csrc/simd/instruction_set.hpp).
set(NCLAB_X86 OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set(NCLAB_X86 ON)
endif()

# Adds one object library per instruction set to `target`. EXCEPT names sets that it does not need.
function(nanochat_simd_target target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" EXCEPT)
  # -Wno-psabi: vectors wider than the baseline's are never passed between files.
  set(sets "portable 16 -Wno-psabi")
  if(NCLAB_X86)
    set(avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mprefer-vector-width=512)
    string(REPLACE ";" " " avx512 "${avx512}")
    list(APPEND sets "avx2 32 -mavx2 -mfma -mf16c")
    if(NCLAB_AVX512)
      list(APPEND sets "avx512 64 ${avx512}" "avx512bf16 64 ${avx512} -mavx512bf16")
    endif()
  endif()
  set(names)
  foreach(set IN LISTS sets)
    separate_arguments(words UNIX_COMMAND "${set}")
    list(POP_FRONT words name bytes)
    if(name IN_LIST arg_EXCEPT)
      continue()
    endif()
    list(APPEND names ${name})
    add_library(${target}_${name} OBJECT)
    target_compile_definitions(${target}_${name} PRIVATE NCLAB_SIMD=${name}
                                                         NCLAB_SIMD_BYTES=${bytes})
    target_compile_options(${target}_${name} PRIVATE ${words})
    target_include_directories(${target}_${name} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
    target_link_libraries(${target}_${name} PRIVATE nanochat_options)
    # The intrinsics take most of the compile time of a small file. ccache does not cache files with
    # a precompiled header.
    if(bytes GREATER 16 AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
      target_precompile_headers(${target}_${name} PRIVATE <immintrin.h>)
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${name}>)
  endforeach()
  set_target_properties(${target} PROPERTIES NCLAB_SIMD_SETS "${names}")
endfunction()

# Compiles the named sources once per instruction set of `target`.
function(nanochat_simd_sources target)
  get_target_property(names ${target} NCLAB_SIMD_SETS)
  foreach(name IN LISTS names)
    target_sources(${target}_${name} PRIVATE ${ARGN})
  endforeach()
endfunction()
