// operator new that fails on request. Linked into executables of their own.
#ifndef NANOCHAT_TESTS_FAILING_ALLOCATIONS_HPP_
#define NANOCHAT_TESTS_FAILING_ALLOCATIONS_HPP_

namespace testing {

// Allocations until std::bad_alloc; negative: no limit. Only one thread may allocate at a time.
extern long budget;

}  // namespace testing

#endif  // NANOCHAT_TESTS_FAILING_ALLOCATIONS_HPP_
