// The faults that the GPU on the CPU must find, each in a small kernel that has it, and that it
// finds none in the same kernel without the fault.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "faulty_kernels.hpp"
#include "host_gpu.hpp"
#include "testing.hpp"

namespace {

using host_gpu::DeviceMemory;
using host_gpu::take_faults;

using Texts = std::vector<std::string>;

// Elements of 32 bits on the device.
class Numbers {
 public:
  explicit Numbers(std::size_t count, const char* name = "result")
      : memory_(name, count * sizeof(std::int32_t)) {}

  template <class T = std::int32_t>
  T* data() const {
    return reinterpret_cast<T*>(memory_.data());
  }
  std::vector<std::int32_t> values() const {
    return {data(), data() + memory_.bytes() / sizeof(std::int32_t)};
  }
  void fill() {  // with 0, 1, 2 …
    for (std::size_t i = 0; i < memory_.bytes() / sizeof(std::int32_t); ++i) {
      data()[i] = static_cast<std::int32_t>(i);
    }
    memory_.mark_written();
  }

 private:
  DeviceMemory memory_;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool all_have(const Texts& texts, const char* part) {
  return !texts.empty() && std::all_of(texts.begin(), texts.end(),
                                       [part](const std::string& text) { return has(text, part); });
}

TEST_CASE(a_missing_barrier_is_a_race_in_any_order) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    Numbers result(2);
    CHECK(faulty::neighbors(false, 2, result.data()) == cudaSuccess);
    const Texts faults = take_faults();
    // The first thread reads what the second has not written; then both of the second's accesses
    // are races with those of the first.
    CHECK(faults.size() == 3);
    CHECK(has(faults[0], "which nothing has written"));
    const bool begins_with_0 = has(faults[0], "thread 0 ");
    const std::string first = begins_with_0 ? "thread 0" : "thread 1";
    const std::string second = begins_with_0 ? "thread 1" : "thread 0";
    CHECK(has(faults[1], second + " of block 0 writes 4 bytes of static shared memory"));
    CHECK(
        has(faults[1], ", which " + first + " of block 0 has read, without a barrier in between"));
    CHECK(has(faults[2], second + " of block 0 reads 4 bytes of static shared memory"));
    CHECK(has(faults[2],
              ", which " + first + " of block 0 has written, without a barrier in between"));
  }
  for (const int threads : {1, 2, 31, 32, 33, 512, 1024}) {
    Numbers result(static_cast<std::size_t>(threads));
    CHECK(faulty::neighbors(true, threads, result.data()) == cudaSuccess);
    CHECK(take_faults().empty());
    for (int i = 0; i < threads; ++i) CHECK(result.data()[i] == (i + 1) % threads);
  }
}

TEST_CASE(a_shuffle_does_not_order_memory_but_syncwarp_does) {
  Numbers result(32);
  CHECK(faulty::lanes(false, result.data()) == cudaSuccess);
  CHECK(all_have(take_faults(), "has written, without a barrier in between"));
  CHECK(faulty::lanes(true, result.data()) == cudaSuccess);
  CHECK(take_faults().empty());
  for (int i = 0; i < 32; ++i) CHECK(result.data()[i] == (i ^ 1));
}

TEST_CASE(a_missing_wait_for_a_copy_is_found) {
  Numbers from(2 * 4, "source");
  from.fill();
  const auto run = [&](int pending, Numbers& result) {
    return faulty::copies(pending, from.data<const uint4>(), 1, result.data<uint4>());
  };
  Numbers unwaited(2 * 4), half(2 * 4), whole(2 * 4);
  CHECK(run(2, unwaited) == cudaSuccess);
  const Texts both = take_faults();
  CHECK(all_have(both, "while a copy to it is on its way"));
  CHECK(has(both.front(), "of dynamic shared memory at offset 0,"));
  CHECK(has(both.back(), "of dynamic shared memory at offset "));
  CHECK(unwaited.values() == std::vector<std::int32_t>(8, -1));  // what the memory began with
  CHECK(run(1, half) == cudaSuccess);
  const Texts second = take_faults();
  CHECK(all_have(second, "while a copy to it is on its way"));
  CHECK(has(second.front(), "of dynamic shared memory at offset 16,"));
  CHECK(half.values() == std::vector<std::int32_t>({0, 1, 2, 3, -1, -1, -1, -1}));
  CHECK(run(0, whole) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(whole.values() == from.values());
}

TEST_CASE(a_barrier_that_a_thread_leaves_out_is_a_deadlock) {
  Numbers result(64);
  CHECK(faulty::missed_barrier(false, 64, result.data()) == cudaErrorLaunchTimeout);
  CHECK(take_faults() ==
        Texts{"deadlock: 63 of the 64 threads of block 0 wait for threads that never come"});
  CHECK(cudaGetLastError() == cudaErrorLaunchTimeout);
  CHECK(faulty::missed_barrier(true, 64, result.data()) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(result.values() == std::vector<std::int32_t>(64, 1));
}

TEST_CASE(lanes_that_meet_in_different_operations_are_found) {
  Numbers result(32);
  CHECK(faulty::meeting(false, result.data()) == cudaSuccess);
  CHECK(all_have(take_faults(), "lanes of warp 0 meet in "));
  CHECK(faulty::meeting(true, result.data()) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(result.values() == std::vector<std::int32_t>(32, 1));
}

TEST_CASE(memory_that_nothing_has_written_is_not_read) {
  Numbers result(8);
  CHECK(faulty::unwritten(false, 1, result.data()) == cudaSuccess);
  const Texts faults = take_faults();
  CHECK(faults.size() == 2 && all_have(faults, "which nothing has written"));
  // Nor is what an earlier block left there.
  CHECK(faulty::unwritten(true, 8, result.data()) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(result.values() == std::vector<std::int32_t>(8, 6));
  CHECK(faulty::unwritten(false, 8, result.data()) == cudaSuccess);
  CHECK(take_faults().size() == 10);  // the most of a launch

  Numbers from(1, "source");
  CHECK(faulty::copied(from.data(), 1, result.data()) == cudaSuccess);
  CHECK(
      take_faults() ==
      Texts{"thread 0 of block 0 reads 4 bytes of source at offset 0, which nothing has written"});
  from.fill();
  CHECK(faulty::copied(from.data(), 1, result.data()) == cudaSuccess);
  CHECK(take_faults().empty());
}

TEST_CASE(accesses_outside_of_the_memory_of_the_device_are_found) {
  Numbers result(32);
  for (const int distance : {1, -1}) {
    CHECK(faulty::shifted(distance, 32, result.data()) == cudaSuccess);
    const char* const fault =
        distance == 1
            ? "thread 31 of block 0 writes 4 bytes of result at offset 128, outside its 128 bytes"
            : "thread 0 of block 0 writes 4 bytes of result at offset -4, outside its 128 bytes";
    CHECK(take_faults() == Texts{fault});
  }
  std::int32_t of_host = 0;
  CHECK(faulty::shifted(0, 1, &of_host) == cudaErrorIllegalAddress);
  CHECK(faulty::shifted(0, 64, nullptr) == cudaErrorIllegalAddress);
  const Texts of_program = take_faults();
  CHECK(of_program.size() == 2 && all_have(of_program, "which is not the device's"));
  CHECK(of_host == 0);

  DeviceMemory rows("rows", 128);
  rows.exclude(60, 4);
  CHECK(faulty::shifted(0, 32, reinterpret_cast<std::int32_t*>(rows.data())) == cudaSuccess);
  CHECK(take_faults() ==
        Texts{"thread 15 of block 0 writes 4 bytes of rows at offset 60, between rows"});
}

TEST_CASE(stores_of_16_bytes_are_aligned) {
  Numbers result(8);
  CHECK(faulty::stored(result.data() + 1) == cudaSuccess);
  CHECK(take_faults() ==
        Texts{"thread 0 of block 0 writes 16 bytes of result at offset 4, which is "
              "not aligned"});
  CHECK(faulty::stored(result.data() + 4) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(result.data()[4] == 1 && result.data()[7] == 4);
}

TEST_CASE(blocks_of_a_cluster_need_both_barriers) {
  for (const unsigned blocks : {2U, 4U, 8U}) {
    for (const int threads : {1, 64}) {
      Numbers result(blocks * static_cast<std::size_t>(threads));
      const auto run = [&](bool has_first, bool has_last) {
        CHECK(faulty::ranks(has_first, has_last, blocks, threads, result.data()) == cudaSuccess);
        return take_faults();
      };
      CHECK(run(true, true).empty());
      for (std::size_t i = 0; i < result.values().size(); ++i) {
        const std::size_t next = i / static_cast<std::size_t>(threads) + 1;
        CHECK(result.values()[i] == static_cast<std::int32_t>(next % blocks));
      }
      CHECK(!run(false, true).empty());
      // Some block ends before or after another has read its memory: a fault either way.
      const Texts faults = run(true, false);
      CHECK(!faults.empty());
      for (const std::string& fault : faults) {
        CHECK(has(fault, "has ended") ||
              has(fault, "ends while others may still access its shared memory"));
      }
    }
  }
}

TEST_CASE(blocks_that_write_the_same_element_race_unless_atomically) {
  Numbers count(1, "count");
  CHECK(faulty::counted(false, 5, count.data<std::uint32_t>()) == cudaSuccess);
  const Texts faults = take_faults();
  CHECK(faults.size() == 4 && all_have(faults, "has written, without a barrier in between"));
  *count.data() = 0;
  CHECK(faulty::counted(true, 5, count.data<std::uint32_t>()) == cudaSuccess);
  CHECK(take_faults().empty());
  CHECK(*count.data() == 5);
}

TEST_CASE(launches_need_the_shared_memory_that_was_allowed) {
  Numbers result(1);
  const std::size_t of_device =
      static_cast<std::size_t>(host_gpu::device().shared_bytes) - host_gpu::static_shared_bytes;
  CHECK(faulty::sized(48 * 1024, result.data()) == cudaSuccess);
  CHECK(faulty::sized(48 * 1024 + 1, result.data()) == cudaErrorInvalidValue);
  CHECK(faulty::allow(static_cast<int>(of_device) + 1) == cudaErrorInvalidValue);
  CHECK(faulty::allow(static_cast<int>(of_device)) == cudaSuccess);
  CHECK(faulty::sized(of_device, result.data()) == cudaSuccess);
  CHECK(faulty::sized(of_device + 1, result.data()) == cudaErrorInvalidValue);
  CHECK(faulty::allow(100) == cudaSuccess && faulty::allowed() == 100);
  CHECK(faulty::sized(101, result.data()) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(take_faults().empty());
}

TEST_CASE(launches_outside_of_the_limits_of_a_device_fail) {
  Numbers result(2048);
  CHECK(faulty::neighbors(true, 1025, result.data()) == cudaErrorInvalidConfiguration);
  CHECK(faulty::neighbors(true, 0, result.data()) == cudaErrorInvalidConfiguration);
  CHECK(faulty::ranks(true, true, 16, 1, result.data()) == cudaErrorInvalidConfiguration);
  host_gpu::device().capability_major = 8;
  CHECK(faulty::ranks(true, true, 2, 1, result.data()) == cudaErrorNotSupported);
  host_gpu::device() = {};
  CHECK(cudaGetLastError() == cudaErrorNotSupported);
  CHECK(take_faults().empty());
}

}  // namespace
