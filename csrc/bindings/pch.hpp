// Precompiled once for all files of the extension: pybind11 takes most of their compile time.
#ifndef NANOCHAT_BINDINGS_PCH_HPP_
#define NANOCHAT_BINDINGS_PCH_HPP_

#include <Python.h>
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#endif  // NANOCHAT_BINDINGS_PCH_HPP_
