# The CUDA kernels behind the same C ABI: nck_cuda, with the CUDA runtime in it, so that it loads
# wherever the NVIDIA driver does. It takes none of nanochat_options: nvcc is another compiler, and
# the sanitizers know nothing of a GPU.
if(NCLAB_CUDA STREQUAL "OFF")
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT NCLAB_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "NCLAB_CUDA is ${NCLAB_CUDA}, but there is no nvcc: install the CUDA toolkit, "
                        "name its compiler in CMAKE_CUDA_COMPILER, or set NCLAB_CUDA to OFF")
  endif()
  message(STATUS "No nvcc: nck_cuda is left out")
  return()
endif()

# Machine code for A100 and H100, and PTX for what comes after; a list of one's own takes its place.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # a CMake older than its nvcc does not know it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

add_library(
  nck_cuda SHARED
  csrc/kernels/status.cpp
  csrc/kernels/cuda/cross_entropy.cu
  csrc/kernels/cuda/cross_entropy_block.cu
  csrc/kernels/cuda/cross_entropy_cluster.cu
  csrc/kernels/cuda/cross_entropy_small.cu
  csrc/kernels/cuda/cross_entropy_streamed.cu
  csrc/kernels/cuda/library.cpp
  csrc/kernels/cuda/sample.cu
  csrc/kernels/cuda/scale_rows.cu
  csrc/kernels/cuda/totals.cu)
target_include_directories(nck_cuda PRIVATE csrc)
string(REPLACE ";" " " nck_cuda_target "${CMAKE_CUDA_ARCHITECTURES}")
set_source_files_properties(
  csrc/kernels/cuda/library.cpp PROPERTIES COMPILE_DEFINITIONS
                                           NCK_CUDA_TARGET="${nck_cuda_target}")
# The draw is specified to the bit: one rounding per operation, as on the CPU.
set_source_files_properties(csrc/kernels/cuda/sample.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
if(NOT MSVC)
  target_compile_options(
    nck_cuda
    PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall>
            $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
            $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
            $<$<BOOL:${NCLAB_WERROR}>:-Werror$<$<COMPILE_LANGUAGE:CUDA>:=all-warnings>>
            $<$<AND:$<BOOL:${NCLAB_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Xcompiler=-Werror>)
  # The runtime's own symbols stay inside.
  target_link_options(nck_cuda PRIVATE LINKER:--exclude-libs,ALL)
endif()
target_link_libraries(nck_cuda PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
install(TARGETS nck_cuda LIBRARY DESTINATION nanochat RUNTIME DESTINATION nanochat)
