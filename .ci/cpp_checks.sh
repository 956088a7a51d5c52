# The C++ checks that .ci/run and .ci/long share. Needs $work, a folder for builds.

# Kernels for AVX-512 are compiled and tested where they run.
avx512=OFF
grep -qw avx512f /proc/cpuinfo 2>/dev/null && avx512=ON

wait_for() {  # process, log: waits for a background job and shows its log if it failed
  wait "$1" || { cat "$2"; return 1; }
}

cmake_core() {  # build folder, options…
  cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
    -DNCLAB_PYTHON=OFF -DNCLAB_CPP_TESTS=ON -DNCLAB_WERROR=ON "${@:2}" >"$1.log" 2>&1 ||
    { cat "$1.log"; return 1; }
}

# With AddressSanitizer and UndefinedBehaviorSanitizer, where nvcc is with the CUDA library for one
# architecture, and with ThreadSanitizer.
build_cpp_tests() {
  cmake_core "$work/asan" -DNCLAB_SANITIZE=ON -DNCLAB_AVX512=$avx512 \
    -DCMAKE_CUDA_ARCHITECTURES=90-real &&
    nice cmake --build "$work/asan" -j 2 &&
    cmake_core "$work/tsan" -DNCLAB_CUDA=OFF -DNCLAB_AVX512=OFF -DNCLAB_SANITIZE=thread &&
    nice cmake --build "$work/tsan" -j 2 --target test_kernels test_kernel_threads
}

cpp_tests() { ctest --test-dir "$work/asan" -j 2 --output-on-failure; }

native_tests() {  # options of pytest…: Python calls the kernels of the build above; libstdc++ because they throw
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 NCLAB_KERNELS="$work/asan" \
    pytest -q -n 2 tests/native "$@"
}

thread_tests() {  # at fixed addresses, where that is allowed: older runtimes know no others
  local fixed=()
  setarch -R true 2>/dev/null && fixed=(setarch -R)
  "${fixed[@]}" ctest -j 2 --test-dir "$work/tsan" -R '^kernel' --output-on-failure
}

# The threads of scalar programs.
program_threads() {
  cmake_core "$work/tsan" -DNCLAB_CUDA=OFF -DNCLAB_AVX512=OFF -DNCLAB_SANITIZE=thread &&
    cmake --build "$work/tsan" --target test_program_threads || return 1
  local fixed=()
  setarch -R true 2>/dev/null && fixed=(setarch -R)
  "${fixed[@]}" ctest --test-dir "$work/tsan" -R '^program_threads' --output-on-failure
}

# The bindings with sanitizers, under the tests that give them hostile input. pybind11 makes types
# that live as long as the process, so leaks are not looked for.
scalar_tests() {
  cmake_core "$work/bindings" -DNCLAB_SANITIZE=ON -DNCLAB_CUDA=OFF -DNCLAB_AVX512=OFF \
    -DNCLAB_CPP_TESTS=OFF -DNCLAB_PYTHON=ON -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" &&
    cmake --build "$work/bindings" --target _scalar nck &&
    cmake --install "$work/bindings" --prefix "$work/sanitized" >/dev/null &&
    sanitized python -c 'from nanochat import _scalar; print(_scalar.__file__)' |
      grep --quiet "^$work/sanitized/" || { echo "needs an install that is not editable"; return 1; }
  sanitized pytest -q -n 2 tests/scalar/test_{draw,matrix_input,native_faults,optimizer,steps}.py \
    tests/scalar/test_program_{arguments,bad_input,graphs,powers,selections,sequences}.py \
    tests/scalar/test_program_{threads,zeros}.py tests/scalar/test_{tape,value}.py
}

sanitized() {  # command…: with the bindings of scalar_tests
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH="$work/sanitized" "$@"
}

# The fuzz targets with libFuzzer, by the first Clang that has it; without one, installs Clang.
libfuzzer_targets() {
  local clang="" each
  command -v clang++ >/dev/null || ls /usr/bin/clang++-* >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq clang; } || return 1
  for each in clang++ clang++-{21..14}; do
    echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
      "$each" -x c++ - -fsanitize=fuzzer -o "$work/has_libfuzzer" 2>/dev/null && clang=$each && break
  done
  [ -n "$clang" ] || { echo "no Clang with libFuzzer"; return 1; }
  cmake_core "$work/fuzz" -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_CXX_FLAGS=-O1 -DNCLAB_FUZZ=ON \
    -DNCLAB_SANITIZE=ON -DNCLAB_CUDA=OFF -DNCLAB_WERROR=OFF &&
    cmake --build "$work/fuzz" --target fuzzers
}

clang_format() {
  git ls-files 'csrc/*' 'tests/cpp/*' | grep -E '[.](cpp|hpp|h|cu|cuh)$' |
    xargs clang-format --dry-run --Werror
}

run_tidy() {  # database, files, options…: clang-tidy, two sources at a time
  local database=$1 files=$2
  git ls-files $files ':!csrc/kernels/cuda' | grep '[.]cpp$' |
    xargs -P 2 -n 2 clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p "$database" "${@:3}"
}

# The commands of all sources, the bindings included. The headers of Python and pybind11 are system
# headers, about which clang-tidy says nothing.
tidy_commands() {
  cmake_core "$work/tidy" -DNCLAB_CUDA=OFF -DNCLAB_PYTHON=ON \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
}

# All checks but the analyzer, which takes nine tenths of the time, on the widest instruction set of
# each source.
tidy() {
  tidy_commands &&
    python .ci/widest.py "$work/tidy" "$work/widest" &&
    run_tidy "$work/widest" csrc --checks='-clang-analyzer-*' \
      --extra-arg=-Wno-deprecated-declarations
}

# The analyzer too, and all other checks on every instruction set.
tidy_every_set() {
  tidy_commands &&
    python .ci/widest.py "$work/tidy" "$work/widest" &&
    run_tidy "$work/widest" csrc &&
    run_tidy "$work/tidy" csrc --checks='-clang-analyzer-*' \
      --extra-arg=-Wno-deprecated-declarations
}
