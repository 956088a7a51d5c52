// Consecutive optimizer steps in one call, without the interpreter in between.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "bindings/compiled.hpp"
#include "scalar/libm.hpp"

namespace nanochat::bindings {
namespace {

// Documents first … first + count − 1 of a batch.
Documents slice(const Documents& all, const VectorProgram& program, std::size_t first,
                std::int32_t count) {
  const auto rows = [first](const auto* numbers, std::int32_t width) {
    return numbers == nullptr ? nullptr : numbers + first * static_cast<std::size_t>(width);
  };
  return {count,
          rows(all.lengths, 1),
          rows(all.tokens, program.slots),
          rows(all.inputs, program.inputs),
          rows(all.scale, 1),
          rows(all.counted, program.positions)};
}

constexpr std::size_t numbers_each = 5;  // of a watched parameter

// The factor of every gradient, as in torch.nn.utils.clip_grad_norm_.
double clip_scale(double clip, double grad_norm) {
  return clip > 0.0 && grad_norm > clip ? std::min(1.0, clip / (grad_norm + 1e-6)) : 1.0;
}

template <class T>
class Steps {
 public:
  Steps(Shards<T>& replay, const VectorProgram& program, const StepOptions& options,
        const std::vector<std::size_t>& ends)
      : replay_(replay), program_(program), options_(options), ends_(ends) {}

  // Leaves the gradients of one step, the next `microbatches` counts of documents, in the replay.
  // Returns the loss: Σ scale · outputs, in the order of the documents.
  double backward(const Documents& all, const std::int32_t* documents, py::ssize_t microbatches) {
    double loss = 0.0;
    bool accumulate = false;
    for (py::ssize_t m = 0; m < microbatches; ++m) {
      for (std::int32_t left = documents[m]; left > 0;) {
        const std::int32_t count = std::min(left, options_.documents_at_once);
        const Documents part = slice(all, program_, first_, count);
        totals_.resize(static_cast<std::size_t>(count));
        replay_.forward_backward(part, totals_.data(), accumulate);
        for (std::int32_t d = 0; d < count; ++d) {
          loss += part.scale[d] * totals_[static_cast<std::size_t>(d)];
        }
        accumulate = true;
        first_ += static_cast<std::size_t>(count);
        left -= count;
      }
    }
    return loss;
  }

  // Updates each range of parameters by its rate, as step number `step`, from 1.
  void update(const double* rates, double grad_norm, long long step) {
    const double scale = clip_scale(options_.grad_clip, grad_norm);
    const auto power = static_cast<double>(step);
    std::size_t begin = 0;
    for (std::size_t r = 0; r < ends_.size(); begin = ends_[r++]) {
      if (options_.adamw) {
        replay_.adamw(begin, ends_[r],
                      {rates[r], options_.beta1, options_.beta2, options_.eps,
                       options_.weight_decay, 1.0 - libm::pow(options_.beta1, power),
                       1.0 - libm::pow(options_.beta2, power), scale});
      } else {
        replay_.sgd(begin, ends_[r],
                    {rates[r], options_.beta1, options_.weight_decay, step == 1, scale});
      }
    }
  }

  double grad_norm() const { return std::sqrt(replay_.gradient_sum_of_squares()); }

  // Writes of each watched parameter what nanochat.training.engine.RECORDED names: weight and
  // gradient before an update, and after it the moments and the difference of the weights.
  void record_before(std::span<const std::int32_t> watched, double* to) {
    for (const std::int32_t index : watched) {
      to[0] = static_cast<double>(replay_.values()[index]);
      to[1] = static_cast<double>(replay_.gradients()[index]);
      to += numbers_each;
    }
  }
  void record_after(std::span<const std::int32_t> watched, double* to) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    for (const std::int32_t index : watched) {
      to[2] = static_cast<double>(replay_.first_moments()[index]);
      to[3] = options_.adamw ? static_cast<double>(replay_.second_moments()[index]) : none;
      to[4] = static_cast<double>(replay_.values()[index]) - to[0];
      to += numbers_each;
    }
  }

 private:
  Shards<T>& replay_;
  const VectorProgram& program_;
  const StepOptions& options_;
  const std::vector<std::size_t>& ends_;
  std::vector<double> totals_;
  std::size_t first_ = 0;  // document of the next step
};

void check_steps(const Compiled& self, const Documents& all, const Integers& documents,
                 const std::vector<std::size_t>& ends, const Doubles& rates) {
  require(documents.ndim() == 2 && rates.ndim() == 2 && rates.shape(0) == documents.shape(0) &&
              rates.shape(1) == static_cast<py::ssize_t>(ends.size()),
          "documents and rates must be (steps, microbatches) and (steps, ranges)");
  std::int64_t total = 0;
  for (py::ssize_t i = 0; i < documents.size(); ++i) {
    require(documents.data()[i] >= 0, "documents must be at least 0 per microbatch");
    total += documents.data()[i];
  }
  require(total == all.count, [&] {
    return "documents must add up to " + std::to_string(all.count) + ", got " +
           std::to_string(total);
  });
  require(!ends.empty() && std::is_sorted(ends.begin(), ends.end()) &&
              ends.back() == self.program.parameters,
          [&] {
            return "ends must increase to the number of parameters, " +
                   std::to_string(self.program.parameters);
          });
}

}  // namespace

py::tuple steps(Compiled& self, const Integers& lengths, const Integers& tokens,
                const Doubles& scale, const std::optional<Doubles>& inputs,
                const std::optional<Flags>& counted, const Integers& documents,
                const std::vector<std::size_t>& ends, const Doubles& rates,
                const std::optional<Integers>& watched_or_none, const StepOptions& options) {
  const InUse in_use(self);
  const Documents all = read_arrays(self, lengths, tokens, scale, inputs, counted);
  check_steps(self, all, documents, ends, rates);
  require(options.done >= 0 && options.documents_at_once >= 1,
          "done must be at least 0, and documents_at_once at least 1");
  const std::span<const std::int32_t> watched =
      watched_or_none
          ? std::span(watched_or_none->data(), static_cast<std::size_t>(watched_or_none->size()))
          : std::span<const std::int32_t>();
  for (const std::int32_t index : watched) {
    require(index >= 0 && static_cast<std::size_t>(index) < self.program.parameters, [&] {
      return "watched must be below the number of parameters, " +
             std::to_string(self.program.parameters) + ", got " + std::to_string(index);
    });
  }
  const py::ssize_t count = documents.shape(0), microbatches = documents.shape(1);
  Doubles losses(count), grad_norms(count);
  double *const loss = losses.mutable_data(), *const grad_norm = grad_norms.mutable_data();
  const std::int32_t* const documents_of = documents.data();
  const double* const rates_of = rates.data();
  const auto row = static_cast<py::ssize_t>(watched.size() * numbers_each);
  Doubles recorded(
      {count, static_cast<py::ssize_t>(watched.size()), static_cast<py::ssize_t>(numbers_each)});
  double* const rows = recorded.mutable_data();
  self.last = LastReplay::none;
  py::ssize_t taken = 0;
  self.replay([&](auto& replay) {
    const py::gil_scoped_release release;
    Steps all_steps(replay, self.program, options, ends);
    for (; taken < count; ++taken) {
      loss[taken] = all_steps.backward(all, documents_of + taken * microbatches, microbatches);
      grad_norm[taken] = all_steps.grad_norm();
      if (!std::isfinite(loss[taken]) || !std::isfinite(grad_norm[taken])) break;
      all_steps.record_before(watched, rows + taken * row);
      all_steps.update(rates_of + taken * rates.shape(1), grad_norm[taken],
                       options.done + taken + 1);
      all_steps.record_after(watched, rows + taken * row);
    }
  });
  return py::make_tuple(losses, grad_norms, taken, recorded);
}

}  // namespace nanochat::bindings
