// The functions over rows of logits: losses, their weight, scaled rows, drawn tokens.
#include <algorithm>

#include "input.hpp"

namespace {

using fuzz::Buffer;
using fuzz::check_call;
using fuzz::infinity;
using fuzz::Input;
using fuzz::nan;

struct Shape {
  std::int64_t rows, vocab, stride;
  std::int32_t dtype;
  std::int64_t elements() const { return rows == 0 ? 0 : (rows - 1) * stride + vocab; }
};

Shape some_shape(Input& input, std::int64_t least_vocab = 1) {
  Shape shape{};
  shape.rows = input.between(0, 9);
  shape.vocab = least_vocab + (input.chance(4) ? input.between(0, 600) : input.between(0, 40));
  shape.stride = shape.vocab + (input.chance(2) ? input.between(0, 5) : 0);
  shape.dtype = input.one_of({NCK_FLOAT32, NCK_FLOAT64, NCK_BFLOAT16, NCK_FLOAT16});
  return shape;
}

// The sizes of a shape as arguments, of which one may be refused.
Shape as_arguments(Input& input, const Shape& shape) {
  Shape given = shape;
  given.rows = input.argument<std::int64_t>(shape.rows, {-1, fuzz::smallest});
  given.vocab = input.argument<std::int64_t>(shape.vocab,
                                             {0, -1, (1 << 30) + 1, fuzz::largest, fuzz::smallest});
  if (shape.rows > 1) {
    given.stride = input.argument<std::int64_t>(
        shape.stride, {shape.vocab - 1, 0, -1, fuzz::smallest, fuzz::largest});
  }
  given.dtype = input.dtype(shape.dtype);
  return given;
}

// Targets of the rows; now and then one that is refused.
Buffer some_targets(Input& input, std::int64_t rows, std::int64_t vocab, std::int64_t ignored,
                    bool& wrong) {
  Buffer targets = input.between_all(rows, 0, vocab - 1);
  auto* const at = targets.as<std::int64_t>();
  if (rows > 0 && input.chance(3)) at[input.between(0, rows - 1)] = ignored;
  if (rows > 0 && input.chance(16)) {
    at[input.between(0, rows - 1)] =
        input.one_of<std::int64_t>({vocab, vocab + 1, fuzz::largest, fuzz::smallest, -2});
    wrong = true;
  }
  return targets;
}

Buffer weights_or_none(Input& input, std::int64_t count, std::int32_t dtype, bool& has) {
  has = input.chance(3);
  return input.numbers(has ? count : 0, fuzz::accum_of(dtype));
}

struct LossCall {
  Shape shape;
  nck_loss loss;
  Buffer &logits, &targets, &classes, &tokens, &upstream;
  bool has_classes, has_tokens, has_upstream;
  std::int64_t upstream_stride;
};

// Compares with the formula of abi.h, in double, where all numbers are tame.
void check_row(const LossCall& call, std::int64_t row, const double* loss, Buffer* gradient,
               std::int64_t gradient_stride) {
  const auto [rows, vocab, stride, dtype] = call.shape;
  const std::int32_t accum = fuzz::accum_of(dtype);
  const double softcap = call.loss.softcap, smoothing = call.loss.label_smoothing;
  std::vector<double> z, slope;
  for (std::int64_t j = 0; j < vocab; ++j) {
    const double logit = fuzz::number_at(call.logits, row * stride + j, dtype);
    const double t = softcap == 0 ? 0 : std::tanh(logit / softcap);
    z.push_back(softcap == 0 ? logit : softcap * t);
    slope.push_back(1 - t * t);
  }
  const double top = *std::max_element(z.begin(), z.end());
  double total = 0, class_sum = 0, smooth = 0, size = 1;
  const auto weight_of = [&](std::int64_t j) {
    return call.has_classes ? fuzz::number_at(call.classes, j, accum) : 1.0;
  };
  for (const double each : z) total += std::exp(each - top);
  const double lse = top + std::log(total);
  for (std::int64_t j = 0; j < vocab; ++j) {
    const double c = weight_of(j), distance = lse - z[static_cast<std::size_t>(j)];
    class_sum += c;
    smooth += c * distance;
    size += std::fabs(c) * (1 + std::fabs(lse) + std::fabs(distance));
  }
  const auto target = call.targets.as<std::int64_t>()[row];
  const double w = call.has_tokens ? fuzz::number_at(call.tokens, row, accum) : 1.0;
  const double own = (1 - smoothing) * weight_of(target),
               share = smoothing / static_cast<double>(vocab);
  size = (size + call.loss.z_loss * (1 + lse * lse)) * (1 + std::fabs(w));
  if (!(size < 1e4)) return;  // not tame; NaN and infinities too
  const double unit = dtype == NCK_FLOAT64 ? 1e-12 : 1e-5;
  if (loss != nullptr) {
    const double expected = w * (own * (lse - z[static_cast<std::size_t>(target)]) +
                                 share * smooth + call.loss.z_loss * lse * lse);
    CHECK(std::fabs(*loss - expected) <= unit * size);
  }
  if (gradient == nullptr) return;
  const double up =
      call.has_upstream ? fuzz::number_at(call.upstream, row * call.upstream_stride, accum) : 1.0;
  if (!(std::fabs(up) < 1e4)) return;
  const double rounding = dtype == NCK_BFLOAT16 ? 1e-2 : dtype == NCK_FLOAT16 ? 1e-3 : unit;
  for (std::int64_t j = 0; j < vocab; ++j) {
    const auto at = static_cast<std::size_t>(j);
    const double p = std::exp(z[at] - lse);
    const double expected = up * w * slope[at] *
                            ((own + share * class_sum + 2 * call.loss.z_loss * lse) * p -
                             (j == target ? own : 0) - share * weight_of(j));
    const double found = fuzz::number_at(*gradient, row * gradient_stride + j, dtype);
    if (dtype == NCK_FLOAT16 && std::fabs(expected) > 60000) continue;  // may be infinite
    CHECK(std::fabs(found - expected) <=
          (unit * size + rounding * std::fabs(expected)) * (1 + std::fabs(up)) + 1e-7);
  }
}

void cross_entropy(Input& input) {
  const Shape shape = some_shape(input);
  const auto [rows, vocab, stride, dtype] = shape;
  const std::int32_t accum = fuzz::accum_of(dtype);
  bool wrong = false, has_classes = false, has_tokens = false, has_upstream = false;
  const auto ignored = input.one_of<std::int64_t>({-100, -1, 0, fuzz::largest});
  Buffer logits = input.numbers(shape.elements(), dtype);
  Buffer targets = some_targets(input, rows, vocab, ignored, wrong);
  Buffer classes = weights_or_none(input, vocab, dtype, has_classes);
  Buffer tokens = weights_or_none(input, rows, dtype, has_tokens);
  const std::int64_t upstream_stride = input.between(0, 1);
  Buffer upstream = weights_or_none(input, upstream_stride == 0 ? 1 : rows, dtype, has_upstream);
  const std::int64_t gradient_stride = vocab + input.between(0, 3);
  Buffer gradient(rows == 0 ? 0 : ((rows - 1) * gradient_stride + vocab) * fuzz::bytes_of(dtype));
  nck_loss loss{ignored, input.one_of({0.0, 0.1, 1.0}), input.one_of({0.0, 1e-4, 2.0}),
                input.one_of({0.0, 15.0, 1e-30, 1e30, 0.5}),
                input.one_of<std::int32_t>({NCK_NONE, NCK_MEAN, NCK_SUM})};
  const LossCall plain{shape,    loss,        logits,     targets,      classes,        tokens,
                       upstream, has_classes, has_tokens, has_upstream, upstream_stride};
  const std::int64_t count = loss.reduction == NCK_NONE ? rows : 1;
  Buffer losses(count * fuzz::bytes_of(accum)), log_sums(rows * fuzz::bytes_of(accum)),
      correct(count * fuzz::bytes_of(accum));
  const bool with_gradient = input.chance(2), in_place = with_gradient && input.chance(3);
  const std::vector<std::uint8_t> before = logits.copy();

  input.begin_call();
  const Shape given = as_arguments(input, shape);
  loss.label_smoothing = input.argument(loss.label_smoothing, {-0.1, 1.1, nan});
  loss.z_loss = input.argument(loss.z_loss, {-1.0, infinity, nan});
  loss.softcap = input.argument(loss.softcap, {-1.0, 1e-31, 1e31, nan, infinity});
  loss.reduction = input.argument<std::int32_t>(loss.reduction, {-1, 3});
  const auto up_stride = input.argument<std::int64_t>(upstream_stride, {2, -1});
  const auto* const at = input.pointer(targets.as<std::int64_t>(), rows > 0);
  const void* const from = input.pointer(logits.as<void>(), rows > 0);
  const nck_loss* const options = input.pointer(&loss);
  std::int64_t to_stride = gradient_stride;
  if (with_gradient && !in_place && rows > 1) {
    to_stride = input.argument<std::int64_t>(gradient_stride, {vocab - 1, -1, fuzz::largest});
  }
  const std::int32_t status = check_call(
      input, {&logits, &gradient, &losses, &log_sums, &correct}, [&](std::int32_t threads) {
        return nck_cross_entropy(from, given.rows, given.vocab, given.stride, given.dtype, at,
                                 has_classes ? classes.as<void>() : nullptr,
                                 has_tokens ? tokens.as<void>() : nullptr, options,
                                 has_upstream ? upstream.as<void>() : nullptr, up_stride,
                                 !with_gradient ? nullptr
                                 : in_place     ? const_cast<void*>(from)
                                                : gradient.as<void>(),
                                 in_place ? given.stride : to_stride, losses.as<void>(),
                                 log_sums.as<void>(), correct.as<void>(), threads);
      });
  if (input.refused) return;
  // A refused target that is ignore_index is none.
  if (!wrong) CHECK(status == NCK_OK);
  if (status != NCK_OK || loss.reduction == NCK_MEAN) return;
  Buffer overwritten(static_cast<std::int64_t>(logits.size));
  if (in_place) {
    overwritten.restore(logits.copy());
    logits.restore(before);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    if (targets.as<std::int64_t>()[row] == ignored) continue;
    const double found = loss.reduction == NCK_NONE ? fuzz::number_at(losses, row, accum) : 0;
    check_row(plain, row, loss.reduction == NCK_NONE ? &found : nullptr,
              in_place        ? &overwritten
              : with_gradient ? &gradient
                              : nullptr,
              in_place ? stride : gradient_stride);
  }
}

void target_weight(Input& input) {
  const Shape shape = some_shape(input);
  bool wrong = false, has_classes = false, has_tokens = false;
  const auto ignored = input.one_of<std::int64_t>({-100, 0});
  Buffer targets = some_targets(input, shape.rows, shape.vocab, ignored, wrong);
  Buffer classes = weights_or_none(input, shape.vocab, shape.dtype, has_classes);
  Buffer tokens = weights_or_none(input, shape.rows, shape.dtype, has_tokens);
  Buffer weight(8), counted(8);
  input.begin_call();
  Shape given = as_arguments(input, {shape.rows, shape.vocab, shape.vocab, shape.dtype});
  if (given.stride != shape.vocab) return;  // this call takes no stride
  const auto* const at = input.pointer(targets.as<std::int64_t>(), shape.rows > 0);
  auto* const to = input.pointer(weight.as<double>());
  const std::int32_t status = nck_target_weight(
      at, given.rows, given.vocab, given.dtype, has_classes ? classes.as<void>() : nullptr,
      has_tokens ? tokens.as<void>() : nullptr, ignored, to,
      input.chance(2) ? counted.as<std::int64_t>() : nullptr);
  if (input.refused) CHECK(status == NCK_ARGUMENT);
  if (!input.refused && !wrong) CHECK(status == NCK_OK);
}

void mixed_cross_entropy(Input& input) {
  const Shape shape = some_shape(input, 2);
  const auto [rows, outputs, stride, dtype] = shape;
  const std::int32_t accum = fuzz::accum_of(dtype);
  bool wrong = false;
  Buffer logits = input.numbers(shape.elements(), dtype);
  Buffer targets = some_targets(input, rows, outputs - 1, -1, wrong);
  Buffer by_counts = input.numbers(rows, NCK_FLOAT32);
  const std::int32_t reduction = input.one_of<std::int32_t>({NCK_NONE, NCK_SUM});
  const std::int64_t count = reduction == NCK_NONE ? rows : 1;
  Buffer mixed(count * fuzz::bytes_of(accum)), network(count * fuzz::bytes_of(accum));
  Buffer gradient(shape.elements() * fuzz::bytes_of(dtype));
  const bool with_gradient = input.chance(2), in_place = with_gradient && input.chance(3);
  input.begin_call();
  Shape given = as_arguments(input, shape);
  given.vocab = input.argument<std::int64_t>(given.vocab, {1});
  const double weight = input.argument(input.one_of({0.0, 1.0, 0.3}), {nan, infinity});
  const double softcap = input.argument(input.one_of({0.0, 15.0}), {-1.0, nan, 1e31});
  const double offset = input.argument(input.one_of({0.0, -2.0, 1e300}), {nan, -infinity});
  const auto kind = input.argument<std::int32_t>(reduction, {NCK_MEAN, -1, 3});
  const auto* const at = input.pointer(targets.as<std::int64_t>(), rows > 0);
  const auto* const counts = input.pointer(by_counts.as<float>(), rows > 0);
  const void* const from = input.pointer(logits.as<void>(), rows > 0);
  const std::int32_t status =
      check_call(input, {&logits, &gradient, &mixed, &network}, [&](std::int32_t threads) {
        return nck_mixed_cross_entropy(from, given.rows, given.vocab, given.stride, given.dtype, at,
                                       counts, -1, weight, softcap, offset, kind,
                                       !with_gradient ? nullptr
                                       : in_place     ? const_cast<void*>(from)
                                                      : gradient.as<void>(),
                                       given.stride, mixed.as<void>(), network.as<void>(), threads);
      });
  if (!input.refused && !wrong) CHECK(status == NCK_OK);
}

void scale_rows(Input& input) {
  const Shape shape = some_shape(input);
  const auto [rows, vocab, stride, dtype] = shape;
  Buffer matrix = input.numbers(shape.elements(), dtype);
  const std::int64_t upstream_stride = input.between(0, 1);
  Buffer upstream = input.numbers(upstream_stride == 0 ? 1 : rows, fuzz::accum_of(dtype));
  Buffer result(shape.elements() * fuzz::bytes_of(dtype));
  const bool in_place = input.chance(2);
  input.begin_call();
  const Shape given = as_arguments(input, shape);
  const auto up_stride = input.argument<std::int64_t>(upstream_stride, {2, -1});
  const void* const from = input.pointer(matrix.as<void>(), rows > 0);
  const void* const factors = input.pointer(upstream.as<void>(), rows > 0);
  const std::vector<std::uint8_t> before = matrix.copy();
  const std::int32_t status = check_call(input, {&matrix, &result}, [&](std::int32_t threads) {
    return nck_scale_rows(from, given.rows, given.vocab, given.stride, given.dtype, factors,
                          up_stride, in_place ? const_cast<void*>(from) : result.as<void>(),
                          given.stride, threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK);
  if (dtype != NCK_FLOAT32 || in_place) return;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t j = 0; j < vocab; ++j) {
      const float expected =
          matrix.as<float>()[row * stride + j] * upstream.as<float>()[row * upstream_stride];
      const float found = result.as<float>()[row * stride + j];
      CHECK(found == expected || (std::isnan(found) && std::isnan(expected)));
    }
  }
}

void sample(Input& input) {
  const Shape shape = some_shape(input);
  const std::int64_t rows = shape.rows;
  Buffer logits = input.numbers(shape.elements(), shape.dtype);
  Buffer random = input.bytes(8 * rows);
  Buffer items = input.between_all(rows, 0, 1000);
  std::int64_t state[3] = {input.one_of<std::int64_t>({0, 0xFFFFFFFF}),
                           input.one_of<std::int64_t>({0, -1, fuzz::largest}),
                           input.one_of<std::int64_t>({0, 7, fuzz::largest})};
  Buffer tokens(rows * 8);
  const bool is_given = input.chance(2), with_items = input.chance(2);
  input.begin_call();
  Shape given = as_arguments(input, shape);
  const double temperature =
      input.argument(input.one_of({0.0, 1.0, 1e-300, 1e300, 0.7}), {-1.0, nan, infinity});
  const auto top_k = input.argument<std::int64_t>(
      input.one_of<std::int64_t>({0, 1, 5, 40, fuzz::largest}), {-1, fuzz::smallest});
  const double top_p = input.argument(input.one_of({1.0, 0.9, 1e-300}), {0.0, 1.1, nan, -0.5});
  given.vocab = input.argument<std::int64_t>(given.vocab, {(1 << 20) + 1});
  auto* const to = input.pointer(tokens.as<std::int64_t>(), rows > 0);
  if (!is_given && rows > 0) {
    state[0] = input.argument<std::int64_t>(state[0], {-1, std::int64_t{1} << 32U});
    state[2] = input.argument<std::int64_t>(state[2], {-1, fuzz::smallest});
  }
  const std::int32_t status = check_call(input, {&tokens}, [&](std::int32_t threads) {
    return nck_sample(logits.as<void>(), given.rows, given.vocab, given.stride, given.dtype,
                      is_given ? random.as<std::uint64_t>() : nullptr, state,
                      with_items ? items.as<std::int64_t>() : nullptr, temperature, top_k, top_p,
                      to, threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK || status == NCK_LOGITS);
  bool all = true;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t token = tokens.as<std::int64_t>()[row];
    CHECK(token >= -2 && token < shape.vocab);
    all = all && token >= 0;
    const auto logit =
        token < 0 ? 0 : fuzz::number_at(logits, row * shape.stride + token, shape.dtype);
    CHECK(token < 0 || logit > -infinity);
  }
  CHECK(all == (status == NCK_OK));
}

}  // namespace

void fuzz::fuzz(Input& input) {
  void (*const calls[])(Input&) = {cross_entropy, target_weight, mixed_cross_entropy, scale_rows,
                                   sample};
  do {
    calls[input.between(0, 4)](input);
  } while (!input.empty());
}
