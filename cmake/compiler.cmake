# The C++ standard, and nanochat_options: the compiler options of all C++ targets.
# nanochat_unsanitized_options: the same without sanitizers.
if(MSVC)
  message(FATAL_ERROR "The C++ compiler must be GCC or Clang, got MSVC; on Windows, use WSL")
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

# One rounding per operation: no contraction to fused multiply-add, no fast-math. No code for the
# build machine only. math-errno decides only whether libm writes errno; its results do not change.
add_library(nanochat_unsanitized_options INTERFACE)
add_library(nanochat_options INTERFACE)
target_link_libraries(nanochat_options INTERFACE nanochat_unsanitized_options)
target_compile_options(
  nanochat_unsanitized_options
  INTERFACE -ffp-contract=off
            -fno-math-errno
            -Wall
            -Wextra
            -Wconversion
            -Wshadow
            $<$<CONFIG:Release>:-O3>
            # GCC 12 reports overlaps in std::string's operator+ that do not exist (bug 105651).
            $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
            $<$<BOOL:${NCLAB_WERROR}>:-Werror>)
if(NCLAB_SANITIZE)
  set(sanitizers address,undefined)
  if(NCLAB_SANITIZE STREQUAL "thread")
    set(sanitizers thread)
  endif()
  target_compile_options(nanochat_options INTERFACE -fsanitize=${sanitizers}
                                                    -fno-sanitize-recover=all -g)
  target_link_options(nanochat_options INTERFACE -fsanitize=${sanitizers})
endif()
if(NCLAB_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "NCLAB_FUZZ needs Clang, got ${CMAKE_CXX_COMPILER_ID}: set CXX=clang++")
  endif()
  target_compile_options(nanochat_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
