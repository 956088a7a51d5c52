// The steps of a transformer block, the optimizer, and the store of buffers.
#include <algorithm>

#include "input.hpp"

namespace {

using fuzz::Buffer;
using fuzz::check_call;
using fuzz::Input;
using fuzz::nan;

std::int32_t some_dtype(Input& input) {
  return input.one_of<std::int32_t>({NCK_FLOAT32, NCK_FLOAT64, NCK_BFLOAT16, NCK_FLOAT16});
}
std::int64_t refusable_rows(Input& input, std::int64_t rows) {
  return input.argument<std::int64_t>(rows, {-1, fuzz::smallest});
}
std::int64_t refusable_width(Input& input, std::int64_t width) {
  return input.argument<std::int64_t>(width, {0, -1, (1 << 30) + 1, fuzz::smallest, fuzz::largest});
}
double refusable_scale(Input& input) {
  return input.argument(input.one_of({1.0, 1.25, 0.0, 1e300}), {nan, fuzz::infinity});
}

Buffer some_mask(Input& input, std::int64_t rows, std::int64_t width) {
  return input.bytes(rows * ((width + 7) / 8));
}

void embed(Input& input) {
  const std::int64_t rows = input.between(0, 4), columns = input.between(0, 12);
  nck_embeddings sizes{};
  sizes.vocab = input.between(1, 20);
  sizes.hidden_size = input.chance(4) ? input.between(1, 300) : input.between(1, 20);
  sizes.prev_token_tables = input.between(0, 3);
  sizes.hash_embed_rows = input.chance(2) ? input.between(1, 30) : 0;
  sizes.hash_embed_longest = input.between(2, 5);
  sizes.dtype = input.one_of<std::int32_t>({NCK_FLOAT32, NCK_FLOAT64});
  const std::int64_t count = rows * columns;
  const std::int64_t table_rows =
      (sizes.prev_token_tables + 1) * sizes.vocab + sizes.hash_embed_rows;
  const bool backward = input.chance(2);
  Buffer table = input.numbers(table_rows * sizes.hidden_size, sizes.dtype);
  Buffer sums = input.numbers(count * sizes.hidden_size, sizes.dtype);
  Buffer tokens = input.between_all(count, 0, sizes.vocab - 1);
  Buffer starts(count * 8);
  const bool with_starts = input.chance(2);
  for (std::int64_t i = 0; i < count; ++i) {
    starts.as<std::int64_t>()[i] = input.between(0, i % columns);
  }
  input.begin_call();
  sizes.vocab = input.argument<std::int64_t>(sizes.vocab, {0, -1, fuzz::largest});
  sizes.hidden_size =
      input.argument<std::int64_t>(sizes.hidden_size, {0, -1, (1 << 16) + 1, fuzz::largest});
  sizes.prev_token_tables = input.argument<std::int64_t>(sizes.prev_token_tables, {-1, 1025});
  if (sizes.hash_embed_rows > 0) {
    sizes.hash_embed_longest =
        input.argument<std::int64_t>(sizes.hash_embed_longest, {1, 0, -1, 1025, fuzz::largest});
  }
  sizes.hash_embed_rows = input.argument<std::int64_t>(
      sizes.hash_embed_rows, {-1, (std::int64_t{1} << 31) + 1, fuzz::smallest});
  sizes.dtype = input.argument<std::int32_t>(sizes.dtype, {NCK_BFLOAT16, NCK_FLOAT16, -1, 4});
  const std::int64_t given_rows = input.argument<std::int64_t>(rows, {-1, (1 << 30) + 1});
  const std::int64_t given_columns = input.argument<std::int64_t>(columns, {-1, (1 << 30) + 1});
  const nck_embeddings* const embeddings = input.pointer(&sizes);
  const auto* const at = input.pointer(tokens.as<std::int64_t>(), count > 0);
  void* const of_table = input.pointer(table.as<void>(), count > 0);
  void* const of_sums = input.pointer(sums.as<void>(), count > 0);
  if (count > 0 && !input.refused && input.chance(8)) {  // a token or a start that is refused
    Buffer& wrong = with_starts && input.chance(2) ? starts : tokens;
    wrong.as<std::int64_t>()[input.between(0, count - 1)] =
        input.one_of<std::int64_t>({-1, 21, fuzz::largest, fuzz::smallest});
    input.refused = true;
  }
  const auto* const from = with_starts ? starts.as<std::int64_t>() : nullptr;
  const std::int32_t status = check_call(input, {&table, &sums}, [&](std::int32_t threads) {
    return backward ? nck_embed_backward(embeddings, at, given_rows, given_columns, from, of_sums,
                                         of_table, threads)
                    : nck_embed(embeddings, of_table, at, given_rows, given_columns, from, of_sums,
                                threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK);
  if (backward || sizes.prev_token_tables > 0 || sizes.hash_embed_rows > 0) return;
  const auto bytes = static_cast<std::size_t>(sizes.hidden_size * fuzz::bytes_of(sizes.dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto token = static_cast<std::size_t>(tokens.as<std::int64_t>()[i]);
    CHECK(std::memcmp(sums.as<std::uint8_t>() + static_cast<std::size_t>(i) * bytes,
                      table.as<std::uint8_t>() + token * bytes, bytes) == 0);
  }
}

void draw_masks(Input& input) {
  const std::int64_t places = input.between(0, 3), rows = input.between(0, 6),
                     width = input.between(1, 300);
  const std::int64_t kept = input.one_of<std::int64_t>({1, 1 << 16, 32768, 5});
  Buffer masks(places * rows * ((width + 7) / 8));
  input.begin_call();
  constexpr std::int64_t word = 0xFFFFFFFF;
  const auto word_of = [&](std::initializer_list<std::int64_t> refused) {
    return input.argument(input.one_of<std::int64_t>({0, word, 17}), refused);
  };
  const std::int64_t seed = word_of({-1, word + 1}), step = word_of({-1, word + 1}),
                     microbatch = word_of({-1, word + 1, fuzz::largest});
  const auto rank =
      input.argument<std::int64_t>(input.one_of<std::int64_t>({0, 65535}), {-1, 65536});
  const auto given_places = input.argument<std::int64_t>(places, {-1, 65537, fuzz::largest});
  const auto given_rows = input.argument<std::int64_t>(rows, {-1, fuzz::largest});
  const auto given_width = refusable_width(input, width);
  const auto given_kept = input.argument<std::int64_t>(kept, {0, -1, (1 << 16) + 1});
  auto* const to = input.pointer(masks.as<std::uint8_t>(), masks.size > 0);
  const std::int32_t status = check_call(input, {&masks}, [&](std::int32_t threads) {
    return nck_draw_masks(seed, step, microbatch, rank, given_places, given_rows, given_width,
                          given_kept, to, threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK);
  for (std::size_t i = 0; i < masks.size && kept == 1 << 16; ++i) {
    CHECK(masks.as<std::uint8_t>()[i] == 0xFF);
  }
}

void dropout(Input& input) {
  const std::int64_t rows = input.between(0, 6), width = input.between(1, 300);
  const std::int32_t dtype = some_dtype(input);
  Buffer x = input.numbers(rows * width, dtype);
  Buffer onto = input.numbers(rows * width, fuzz::accum_of(dtype));
  Buffer mask = some_mask(input, rows, width);
  Buffer result(rows * width * fuzz::bytes_of(dtype));
  const bool with_onto = input.chance(2), in_place = input.chance(2);
  input.begin_call();
  const auto given_rows = refusable_rows(input, rows), given_width = refusable_width(input, width);
  const std::int32_t given_dtype = input.dtype(dtype);
  const double scale = refusable_scale(input);
  const void* const from = input.pointer(x.as<void>(), rows > 0);
  const auto* const bits = input.pointer(mask.as<std::uint8_t>(), rows > 0);
  void* const to = input.pointer(in_place ? x.as<void>() : result.as<void>(), rows > 0);
  const std::int32_t status = check_call(input, {&x, &result}, [&](std::int32_t threads) {
    return nck_dropout(from, with_onto ? onto.as<void>() : nullptr, bits, given_rows, given_width,
                       given_dtype, scale, to, threads);
  });
  if (!input.refused) CHECK(status == NCK_OK);
}

void rms_norm(Input& input) {
  const std::int64_t rows = input.between(0, 6), width = input.between(1, 300);
  const std::int32_t dtype = some_dtype(input), accum = fuzz::accum_of(dtype);
  const std::int64_t elements = rows * width;
  Buffer x = input.numbers(elements, accum), branch = input.numbers(elements, dtype);
  Buffer mask = some_mask(input, rows, width);
  Buffer sum(elements * fuzz::bytes_of(accum)), normed(elements * fuzz::bytes_of(dtype)),
      inverse(rows * fuzz::bytes_of(accum));
  const bool with_branch = input.chance(2), with_mask = input.chance(2), in_place = input.chance(3);
  input.begin_call();
  const auto given_rows = refusable_rows(input, rows), given_width = refusable_width(input, width);
  const std::int32_t given_dtype = input.dtype(dtype);
  const double scale = refusable_scale(input);
  const double eps = input.argument(input.one_of({1e-5, 1.0, 1e-300}), {0.0, -1.0, nan, 1.5});
  const void* const from = input.pointer(x.as<void>(), rows > 0);
  void* const to = input.pointer(in_place ? x.as<void>() : sum.as<void>(), with_branch && rows > 0);
  void* const to_normed = input.pointer(normed.as<void>(), rows > 0);
  void* const to_inverse = input.pointer(inverse.as<void>(), rows > 0);
  const auto* const bits = with_mask ? mask.as<std::uint8_t>() : nullptr;
  const std::int32_t status =
      check_call(input, {&x, &sum, &normed, &inverse}, [&](std::int32_t threads) {
        return nck_rms_norm(from, with_branch ? branch.as<void>() : nullptr, bits, scale,
                            given_rows, given_width, given_dtype, eps, to, to_normed, to_inverse,
                            threads);
      });
  if (!input.refused) CHECK(status == NCK_OK);
}

void rms_norm_backward(Input& input) {
  const std::int64_t rows = input.between(0, 6), width = input.between(1, 300);
  const std::int32_t dtype = some_dtype(input), accum = fuzz::accum_of(dtype);
  const std::int64_t elements = rows * width;
  Buffer gradient = input.numbers(elements, dtype), x = input.numbers(elements, accum),
         inverse = input.numbers(rows, accum), onto = input.numbers(elements, accum);
  Buffer mask = some_mask(input, rows, width);
  Buffer result(elements * fuzz::bytes_of(accum)), stored(elements * fuzz::bytes_of(dtype));
  const bool with_mask = input.chance(2), in_place = input.chance(3), stores = input.chance(2);
  input.begin_call();
  const auto given_rows = refusable_rows(input, rows), given_width = refusable_width(input, width);
  const std::int32_t given_dtype = input.dtype(dtype);
  const double scale = refusable_scale(input);
  const void* const from = input.pointer(gradient.as<void>(), rows > 0);
  const void* const of_x = input.pointer(x.as<void>(), rows > 0);
  const void* const of_inverse = input.pointer(inverse.as<void>(), rows > 0);
  void* const of_onto = input.pointer(onto.as<void>(), rows > 0);
  void* const to = input.pointer(in_place ? onto.as<void>() : result.as<void>(), rows > 0);
  const std::int32_t status =
      check_call(input, {&onto, &result, &stored}, [&](std::int32_t threads) {
        return nck_rms_norm_backward(from, of_x, of_inverse, of_onto, given_rows, given_width,
                                     given_dtype, to, stores ? stored.as<void>() : nullptr,
                                     with_mask ? mask.as<std::uint8_t>() : nullptr, scale, threads);
      });
  if (!input.refused) CHECK(status == NCK_OK);
}

void activation(Input& input) {
  const std::int64_t count = input.between(0, 700);
  const std::int32_t dtype = some_dtype(input), squared = input.one_of({0, 1});
  Buffer x = input.numbers(count, dtype), other = input.numbers(count, dtype);
  const bool backward = input.chance(2), in_place = !backward && input.chance(2);
  input.begin_call();
  const auto given = input.argument<std::int64_t>(count, {-1, fuzz::smallest});
  const std::int32_t given_dtype = input.dtype(dtype);
  const void* const from = input.pointer(x.as<void>(), count > 0);
  void* const to = input.pointer(in_place ? x.as<void>() : other.as<void>(), count > 0);
  const std::int32_t status = check_call(input, {&x, &other}, [&](std::int32_t threads) {
    return backward ? nck_activation_backward(from, given, given_dtype, squared, to, threads)
                    : nck_activation(from, given, given_dtype, squared, to, threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK);
  if (backward || in_place || dtype != NCK_FLOAT32) return;
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = x.as<float>()[i], positive = value > 0 ? value : 0;
    const float expected = squared != 0 ? positive * positive : positive;
    CHECK(std::isnan(value) || other.as<float>()[i] == expected);
  }
}

void attention(Input& input) {
  nck_attention_shape shape{};
  shape.rows = input.between(0, 3);
  shape.sequence_length = input.between(1, 20);
  shape.heads = input.between(1, 3);
  shape.head_dim = input.chance(3) ? input.between(1, 70) : 2 * input.between(1, 9);
  shape.eps = input.one_of({1e-5, 1.0});
  shape.dtype = some_dtype(input);
  shape.normed = input.one_of({0, 1});
  const std::int32_t accum = fuzz::accum_of(shape.dtype);
  const std::int64_t tokens = shape.rows * shape.sequence_length, half = shape.head_dim / 2,
                     elements = tokens * shape.heads * shape.head_dim;
  const bool backward = input.chance(2), with_starts = input.chance(2),
             rotates = shape.head_dim % 2 == 0 && input.chance(2);
  const std::int64_t angles = input.between(1, 24);
  Buffer qkv = input.numbers(3 * elements, shape.dtype),
         mixed = input.numbers(elements, shape.dtype);
  shape.angle_rows = angles;
  Buffer cosines = input.numbers(angles * half, accum), sines = input.numbers(angles * half, accum);
  Buffer positions = input.between_all(tokens, 0, angles - 1);
  Buffer result(3 * elements * fuzz::bytes_of(shape.dtype));
  Buffer starts(tokens * 8);
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t column = i % shape.sequence_length;
    const std::int64_t least = column == 0 ? 0 : starts.as<std::int64_t>()[i - 1];
    starts.as<std::int64_t>()[i] = input.between(least, column);
  }
  input.begin_call();
  shape.rows = input.argument<std::int64_t>(shape.rows, {-1, (std::int64_t{1} << 31) + 1});
  shape.sequence_length =
      input.argument<std::int64_t>(shape.sequence_length, {0, -1, 4097, fuzz::largest});
  shape.heads = input.argument<std::int64_t>(shape.heads, {0, -1, 1025, fuzz::largest});
  shape.head_dim = input.argument<std::int64_t>(shape.head_dim, {0, -1, 1025, fuzz::largest});
  if (shape.normed != 0) shape.eps = input.argument(shape.eps, {0.0, -1.0, nan, 1.5});
  shape.dtype = input.dtype(shape.dtype);
  const nck_attention_shape* const sizes = input.pointer(&shape);
  const void* const from = input.pointer(qkv.as<void>(), tokens > 0);
  const void* const of_sines = input.pointer(sines.as<void>(), rotates && tokens > 0);
  const auto* const at = input.pointer(positions.as<std::int64_t>(), rotates && tokens > 0);
  void* const of_mixed = input.pointer(mixed.as<void>(), tokens > 0);
  void* const to = input.pointer(result.as<void>(), backward && tokens > 0);
  if (tokens > 0 && !input.refused && (rotates || with_starts) && input.chance(8)) {
    const std::int64_t wrong = input.one_of<std::int64_t>({-1, fuzz::smallest});
    (rotates ? positions : starts).as<std::int64_t>()[input.between(0, tokens - 1)] = wrong;
    input.refused = true;
  }
  const auto* const first = with_starts ? starts.as<std::int64_t>() : nullptr;
  const void* const of_cosines = rotates ? cosines.as<void>() : nullptr;
  const std::int32_t status = check_call(input, {&mixed, &result}, [&](std::int32_t threads) {
    return backward
               ? nck_attention_backward(sizes, from, of_cosines, of_sines, at, first, of_mixed, to,
                                        threads)
               : nck_attention(sizes, from, of_cosines, of_sines, at, first, of_mixed, threads);
  });
  if (!input.refused) CHECK(status == NCK_OK);
}

void adamw(Input& input) {
  const std::int64_t size = input.between(0, 400), pieces = input.between(0, 4);
  const std::int32_t dtype = some_dtype(input), accum = fuzz::accum_of(dtype);
  Buffer stops(pieces * 8);
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < pieces; ++i) {
    end = input.between(end, size);
    stops.as<std::int64_t>()[i] = end;
  }
  Buffer values = input.numbers(size, accum), gradients = input.numbers(size, accum),
         rates = input.numbers(pieces, NCK_FLOAT64), m = input.numbers(end, accum),
         v = input.numbers(end, accum), loss = input.numbers(1, accum);
  Buffer count(4), stopped(4), norm(fuzz::bytes_of(accum)), computed(size * fuzz::bytes_of(dtype));
  const std::int64_t first_computed = input.between(0, size);
  const bool computes = input.chance(2);
  nck_adamw_options options{input.one_of({0.9, 0.0}), input.one_of({0.999, 0.0}),
                            input.one_of({1e-8, 0.0}), input.one_of({0.1, 0.0}),
                            input.one_of({1.0, 0.0, 1e-300})};
  input.begin_call();
  const auto given = input.argument<std::int64_t>(size, {-1, fuzz::largest, fuzz::smallest});
  const auto given_pieces = input.argument<std::int64_t>(pieces, {-1, 1025, fuzz::largest});
  const std::int32_t given_dtype = input.dtype(dtype);
  options.beta1 = input.argument(options.beta1, {1.0, -0.1, nan});
  options.beta2 = input.argument(options.beta2, {1.0, -0.1, nan});
  options.eps = input.argument(options.eps, {-1.0, nan});
  options.grad_clip = input.argument(options.grad_clip, {-1.0, nan});
  const nck_adamw_options* const given_options = input.pointer(&options);
  const auto* const at = input.pointer(stops.as<std::int64_t>(), pieces > 0);
  const auto* const of_rates = input.pointer(rates.as<double>(), pieces > 0);
  void* const of_values = input.pointer(values.as<void>(), size > 0);
  void* const of_gradients = input.pointer(gradients.as<void>(), size > 0);
  void* const of_m = input.pointer(m.as<void>(), size > 0);
  void* const of_v = input.pointer(v.as<void>(), size > 0);
  const void* const of_loss = input.pointer(loss.as<void>());
  float* const of_count = input.pointer(count.as<float>());
  float* const of_stopped = input.pointer(stopped.as<float>());
  void* const to_norm = input.pointer(norm.as<void>());
  if (pieces > 0 && !input.refused && input.chance(8)) {
    stops.as<std::int64_t>()[pieces - 1] =
        input.one_of<std::int64_t>({-1, size + 1, fuzz::largest});
    input.refused = true;
  }
  const std::int32_t status =
      check_call(input, {&values, &gradients, &m, &v, &count, &stopped, &norm, &computed},
                 [&](std::int32_t threads) {
                   return nck_adamw(of_values, of_gradients, of_m, of_v, given, given_dtype,
                                    given_options, at, of_rates, given_pieces, of_loss, of_count,
                                    of_stopped, computes ? computed.as<void>() : nullptr,
                                    first_computed, to_norm, threads);
                 });
  if (input.refused) return;
  CHECK(status == NCK_OK);
  CHECK(stopped.as<float>()[0] + count.as<float>()[0] == 1);
}

void buffers(Input& input) {
  std::vector<void*> taken;
  for (int i = 0; i < 12; ++i) {
    if (input.chance(2) && !taken.empty()) {
      nck_give_buffer(taken.back());
      taken.pop_back();
      continue;
    }
    if (input.chance(8)) nck_drop_buffers();
    if (input.chance(8)) nck_give_buffer(nullptr);
    void* memory = nullptr;
    const auto bytes = input.one_of<std::int64_t>(
        {0, 1, 4096, (2 << 20) + 1, 17 << 20, -1, std::int64_t{1} << 47, fuzz::largest});
    const std::int32_t status = nck_take_buffer(bytes, &memory);
    if (bytes < 0 || bytes == fuzz::largest) CHECK(status == NCK_ARGUMENT);
    if (bytes == std::int64_t{1} << 47) CHECK(status == NCK_MEMORY);
    if (status != NCK_OK) continue;
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % 64 == 0);
    if (bytes > 0) static_cast<char*>(memory)[0] = static_cast<char*>(memory)[bytes - 1] = 1;
    taken.push_back(memory);
  }
  for (void* const each : taken) nck_give_buffer(each);
  CHECK(nck_kept_bytes() >= 0);
  CHECK(nck_take_buffer(1, nullptr) == NCK_ARGUMENT);
  nck_drop_buffers();
  CHECK(nck_kept_bytes() == 0);
}

}  // namespace

void fuzz::fuzz(Input& input) {
  void (*const calls[])(Input&) = {embed,      draw_masks, dropout, rms_norm, rms_norm_backward,
                                   activation, attention,  adamw,   buffers};
  do {
    calls[input.between(0, 8)](input);
  } while (!input.empty());
}
