# The C++ checks that .ci/run and .ci/long share. Needs $work, a folder for builds.

# Kernels for AVX-512 are tested only where they run.
avx512=OFF
grep -qw avx512f /proc/cpuinfo 2>/dev/null && avx512=ON

cmake_core() {  # build folder, options…
  cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
    -DNCLAB_PYTHON=OFF -DNCLAB_CPP_TESTS=ON -DNCLAB_WERROR=ON "${@:2}" >"$work/cmake.log" 2>&1 ||
    { cat "$work/cmake.log"; return 1; }
}

cpp_tests() {  # and, where nvcc is, the CUDA library for one architecture with warnings as errors
  cmake_core "$work/asan" -DNCLAB_SANITIZE=ON -DNCLAB_AVX512=$avx512 -DCMAKE_CUDA_ARCHITECTURES=90-real &&
    cmake --build "$work/asan" && ctest --test-dir "$work/asan" -j 2 --output-on-failure
}

native_tests() {  # Python calls the kernels of the build above; libstdc++ because they throw
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 NCLAB_KERNELS="$work/asan" \
    pytest -q -n 2 tests/native
}

thread_tests() {  # at fixed addresses, where that is allowed: older runtimes know no others
  local fixed=()
  setarch -R true 2>/dev/null && fixed=(setarch -R)
  cmake_core "$work/tsan" -DNCLAB_CUDA=OFF -DNCLAB_AVX512=OFF -DNCLAB_SANITIZE=thread &&
    cmake --build "$work/tsan" --target test_kernels test_kernel_threads &&
    "${fixed[@]}" ctest --test-dir "$work/tsan" -R '^kernel' --output-on-failure
}

run_tidy() {  # options…: clang-tidy on every source that it can parse
  git ls-files 'csrc/*.cpp' ':!csrc/bindings' ':!csrc/kernels/cuda' |
    xargs -P 2 -n 2 clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option "$@"
}

# All checks on one instruction set of each source. The analyzer, which takes nine tenths of the
# time, finds the same paths in every set, so it walks the widest.
tidy() {
  cmake_core "$work/tidy" -DNCLAB_CUDA=OFF &&
    python .ci/widest.py "$work/tidy" "$work/widest" && run_tidy -p "$work/widest"
}

# All checks but the analyzer on every instruction set.
tidy_every_set() {
  cmake_core "$work/tidy" -DNCLAB_CUDA=OFF &&
    run_tidy -p "$work/tidy" --checks='-clang-analyzer-*' \
      --extra-arg=-Wno-deprecated-declarations
}
