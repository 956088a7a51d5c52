// The counts behind the C ABI, and the checks that its functions share.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_HANDLE_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_HANDLE_HPP_

#include "kernels/checks.hpp"
#include "kernels/cpu/ngram/lookup.hpp"
#include "kernels/cpu/ngram/table.hpp"

struct nck_ngrams {
  nanochat::kernels::ngram::Table table;  // empty if the view is of the caller's arrays
  nanochat::kernels::ngram::View view;
};

namespace nanochat::kernels::ngram {

inline void check_tokens(const std::int64_t* tokens, std::int64_t count, std::int64_t least,
                         std::int64_t vocab) {
  if (count > 0) check_pointer(tokens, "tokens");
  for (std::int64_t i = 0; i < count; ++i) {
    if (tokens[i] < least || tokens[i] >= vocab) {
      throw Failure(NCK_ARGUMENT, "token %lld must be in [%lld, %lld), got %lld",
                    static_cast<long long>(i), static_cast<long long>(least),
                    static_cast<long long>(vocab), static_cast<long long>(tokens[i]));
    }
  }
}

// Returns the context that tokens[0 … length − 1] are after their last BOS, at most `longest` of
// them.
inline Context context_of(const std::int64_t* tokens, std::int64_t length,
                          std::int64_t longest) noexcept {
  const std::int64_t* const end = tokens + length;
  const std::int64_t* const least = length > longest ? end - longest : tokens;
  const std::int64_t* begin = end;
  while (begin > least && begin[-1] != bos) --begin;
  return {begin, end - begin, begin > tokens && begin[-1] == bos};
}

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_HANDLE_HPP_
