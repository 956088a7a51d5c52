// draw_tokens: samples one token per row of a NumPy array with the CPU kernel nck_sample, for
// engines without torch.
#include <pybind11/numpy.h>

#include <cmath>
#include <new>
#include <string>

#include "bindings/bindings.hpp"
#include "kernels/nck.h"

namespace nanochat::bindings {
namespace {

using RandomIntegers = py::array_t<std::uint64_t, py::array::c_style>;
using Tokens = py::array_t<std::int64_t>;

std::string str(const py::handle& object) { return py::str(object).cast<std::string>(); }

void check_options(double temperature, py::ssize_t top_k, double top_p) {
  if (!std::isfinite(temperature) || temperature < 0) {
    throw py::value_error("temperature must be finite and >= 0, got " +
                          str(py::float_(temperature)));
  }
  if (top_k < 0) throw py::value_error("top_k must be at least 0, got " + std::to_string(top_k));
  if (!(top_p > 0 && top_p <= 1)) {
    throw py::value_error("top_p must be above 0 and at most 1, got " + str(py::float_(top_p)));
  }
}

template <class Number, std::int32_t dtype>
Tokens draw_rows(const py::array& given, const RandomIntegers& random, double temperature,
                 py::ssize_t top_k, double top_p, std::int32_t threads) {
  const auto logits = py::array_t<Number, py::array::c_style>::ensure(given);
  if (!logits) throw py::error_already_set();
  const py::ssize_t rows = logits.shape(0), vocab = logits.shape(1);
  Tokens tokens(rows);
  const std::int32_t status =
      nck_sample(logits.data(), rows, vocab, vocab, dtype, random.data(), nullptr, nullptr,
                 temperature, top_k, top_p, tokens.mutable_data(), threads);
  if (status == NCK_MEMORY) throw std::bad_alloc();
  if (status == NCK_LOGITS) {
    const py::object error = py::module_::import("nanochat.errors").attr("LogitsError");
    py::set_error(error, nck_last_error());
    throw py::error_already_set();
  }
  if (status != NCK_OK) throw py::value_error(nck_last_error());
  return tokens;
}

Tokens draw_tokens(const py::array& logits, const RandomIntegers& random, double temperature,
                   py::ssize_t top_k, double top_p, std::int32_t threads) {
  check_options(temperature, top_k, top_p);
  if (logits.ndim() != 2 || random.ndim() != 1 || random.shape(0) != logits.shape(0)) {
    throw py::value_error("draw() takes (rows, vocab) logits and (rows,) random integers, got " +
                          str(logits.attr("shape")) + " and " + str(random.attr("shape")));
  }
  if (logits.shape(1) < 1) throw py::value_error("vocabulary must be at least 1 token, got 0");
  if (py::isinstance<py::array_t<float>>(logits)) {
    return draw_rows<float, NCK_FLOAT32>(logits, random, temperature, top_k, top_p, threads);
  }
  if (py::isinstance<py::array_t<double>>(logits)) {
    return draw_rows<double, NCK_FLOAT64>(logits, random, temperature, top_k, top_p, threads);
  }
  throw py::type_error("logits must be float32 or float64, got " + str(logits.dtype()));
}

}  // namespace

void register_draw(py::module_& module) {
  module.def(
      "draw_tokens", &draw_tokens, py::arg("logits"), py::arg("random").noconvert(),
      py::arg("temperature") = 1.0, py::arg("top_k") = 0, py::arg("top_p") = 1.0,
      py::arg("threads") = 1,
      "draw_tokens(logits, random, temperature=1.0, top_k=0, top_p=1.0, threads=1)\n--\n\n"
      "Sample one token per row: the same tokens as nanochat.sampling.draw.draw.\n\n"
      "Args:\n"
      "    logits: (rows, vocab) float32 or float64.\n"
      "    random: (rows,) uint64, C-contiguous.\n"
      "    temperature: 0 takes the largest logit, of equal ones the first.\n"
      "    top_k: number of tokens to keep; 0 keeps all.\n"
      "    threads: at least 1. The tokens are equal for any number.\n\n"
      "Returns an int64 array (rows,). Raises ValueError for an option that is out of range,\n"
      "LogitsError for a row that holds NaN or only -inf, TypeError for another dtype.");
}

}  // namespace nanochat::bindings
