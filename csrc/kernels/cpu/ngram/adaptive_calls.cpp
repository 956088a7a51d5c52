// The functions of the C ABI for counts that grow with the text read: check the arguments.
#include <cmath>

#include "kernels/checks.hpp"
#include "kernels/cpu/ngram/adaptive_model.hpp"
#include "kernels/cpu/ngram/handle.hpp"

struct nck_adaptive {
  nanochat::kernels::ngram::AdaptiveModel model;
};

namespace nanochat::kernels::ngram {
namespace {

void check_rate(const char* name, double rate) {
  if (!(rate >= 0 && rate <= 10)) {
    throw Failure(NCK_ARGUMENT, "%s must be in [0, 10], got %g", name, rate);
  }
}

void check_share(double share) {
  if (!(share >= 0 && share <= 1)) {
    throw Failure(NCK_ARGUMENT, "a share of the network must be in [0, 1], got %g", share);
  }
}

}  // namespace
}  // namespace nanochat::kernels::ngram

extern "C" {

std::int32_t nck_open_adaptive(const nck_ngrams* ngrams, std::int32_t order,
                               std::int32_t read_order, std::int32_t begins, double discount_rate,
                               double gate_rate, nck_adaptive** adaptive) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(ngrams, "ngrams");
    check_pointer(static_cast<const void*>(adaptive), "adaptive");
    check_range("order", order, 1, ngrams->view.order);
    check_range("read_order", read_order, 0, ngram::max_order);
    ngram::check_rate("discount_rate", discount_rate);
    ngram::check_rate("gate_rate", gate_rate);
    *adaptive = new nck_adaptive{ngram::AdaptiveModel(ngrams->view, order, read_order, begins != 0,
                                                      discount_rate, gate_rate)};
  });
}

std::int32_t nck_copy_adaptive(const nck_adaptive* adaptive, nck_adaptive** copy) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(adaptive, "adaptive");
    check_pointer(static_cast<const void*>(copy), "copy");
    *copy = new nck_adaptive{*adaptive};
  });
}

// NOLINTNEXTLINE(misc-const-correctness): abi.h declares it without const
void nck_free_adaptive(nck_adaptive* adaptive) { delete adaptive; }

std::int64_t nck_adaptive_bytes(const nck_adaptive* adaptive) {
  return adaptive == nullptr ? 0 : static_cast<std::int64_t>(adaptive->model.bytes());
}

std::int32_t nck_adaptive_read(nck_adaptive* adaptive, const std::int64_t* tokens,
                               std::int64_t count, const double* network, double* losses,
                               double* counted) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(adaptive, "adaptive");
    ngram::AdaptiveModel& model = adaptive->model;
    check_range("count", count, 0, ngram::max_targets - model.tokens_read());
    ngram::check_tokens(tokens, count, 0, model.vocab());
    if (count > 0) check_pointer(losses, "losses");
    if (network != nullptr) {
      for (std::int64_t i = 0; i < 2 * count; ++i) ngram::check_share(network[i]);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const auto [mixed, by_counts] = model.read(static_cast<std::uint32_t>(tokens[i]),
                                                 network == nullptr ? nullptr : network + 2 * i);
      losses[i] = -std::log(mixed);
      if (counted != nullptr) counted[i] = -std::log(by_counts);
    }
  });
}

std::int32_t nck_adaptive_distribution(const nck_adaptive* adaptive, const double* network,
                                       double* probabilities) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(adaptive, "adaptive");
    check_pointer(probabilities, "probabilities");
    if (network != nullptr) {
      for (std::int64_t i = 0; i <= adaptive->model.vocab(); ++i) ngram::check_share(network[i]);
    }
    adaptive->model.distribution(network, probabilities);
  });
}

}  // extern "C"
