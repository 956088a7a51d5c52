// The device's properties, the kernels' attributes, and the errors of the CUDA runtime.
#include <algorithm>
#include <map>
#include <mutex>

#include "machine.hpp"

namespace host_gpu {
namespace {

// Dynamic shared memory that kernels were allowed, for all threads of the program.
class Limits {
 public:
  void set(const void* kernel, int bytes) {
    const std::lock_guard lock(mutex_);
    bytes_[kernel] = bytes;
  }
  int get(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = bytes_.find(kernel);
    return found == bytes_.end() ? default_dynamic_bytes : found->second;
  }

 private:
  std::mutex mutex_;
  std::map<const void*, int> bytes_;
};

Limits& limits() {
  static Limits all;
  return all;
}

}  // namespace

Device& device() {
  static Device only;
  return only;
}

cudaError_t outcome(cudaError_t error) {
  Machine& own = machine();
  if (error == cudaSuccess && own.calls_until_failure >= 0 && own.calls_until_failure-- == 0) {
    error = cudaErrorUnknown;
  }
  if (error != cudaSuccess) own.last_error = error;
  return error;
}

std::size_t most_dynamic_bytes(const void* kernel) {
  const int of_device = device().shared_bytes - static_shared_bytes;
  return static_cast<std::size_t>(std::min(limits().get(kernel), of_device));
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {static_shared_bytes, limits().get(kernel)};
  return outcome(cudaSuccess);
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  const bool is_allowed = bytes >= 0 && bytes <= device().shared_bytes - static_shared_bytes;
  const cudaError_t error = outcome(is_allowed ? cudaSuccess : cudaErrorInvalidValue);
  if (error == cudaSuccess) limits().set(kernel, bytes);
  return error;
}

cudaError_t active_clusters(int* clusters) {
  *clusters = device().active_clusters;
  return outcome(cudaSuccess);
}

std::vector<Launch> take_launches() { return std::exchange(machine().launches, {}); }
std::vector<std::string> take_faults() { return std::exchange(machine().faults, {}); }
void fail_after(int calls) { machine().calls_until_failure = calls; }
void before_next_launch(std::function<void()> action) {
  machine().before_launch = std::move(action);
}

}  // namespace host_gpu

cudaError_t cudaGetLastError() {
  return std::exchange(host_gpu::machine().last_error, cudaSuccess);
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorLaunchTimeout:
      return "the launch timed out and was terminated";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "unknown error";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return host_gpu::outcome(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const host_gpu::Device& device = host_gpu::device();
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? device.capability_major
                                                          : device.shared_bytes;
  return host_gpu::outcome(cudaSuccess);
}
