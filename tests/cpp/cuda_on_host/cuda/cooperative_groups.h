// Replaces CUDA's header of the same name, as far as the kernels use it: clusters of blocks.
#ifndef NANOCHAT_TESTS_COOPERATIVE_GROUPS_H_
#define NANOCHAT_TESTS_COOPERATIVE_GROUPS_H_

#include <cuda_runtime.h>

#pragma GCC visibility push(default)
namespace host_gpu {

unsigned cluster_size();
unsigned rank_in_cluster();
void synchronize_cluster();
// Returns the address in the shared memory of block `rank` that `own` is in the block's own.
void* in_block(void* own, unsigned rank);

}  // namespace host_gpu
#pragma GCC visibility pop

namespace cooperative_groups {

struct cluster_group {
  void sync() const { host_gpu::synchronize_cluster(); }
  unsigned num_blocks() const { return host_gpu::cluster_size(); }
  unsigned block_rank() const { return host_gpu::rank_in_cluster(); }
  template <class T>
  T* map_shared_rank(T* own, unsigned rank) const {
    return static_cast<T*>(host_gpu::in_block(own, rank));
  }
};
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups

#endif  // NANOCHAT_TESTS_COOPERATIVE_GROUPS_H_
