// What Python sees of bit packing and of the context-mixing coder; the rules are those of module.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <vector>

#include "cm.hpp"
#include "kernels.hpp"
#include "module_codes.hpp"

namespace nb = nanobind;

namespace tersenet {

namespace {

template <typename T>
using Flat = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Layout layout_of(size_t row, size_t kernel, size_t line, int most, size_t count, size_t start) {
  if (!(row >= 1 && row <= kLongestRow && kernel && row % kernel == 0 && line && kernel % line == 0))
    throw std::invalid_argument("rows of whole kernels, and kernels of whole lines are needed");
  if (most < 1 || most > 31) throw std::invalid_argument("magnitudes of 1 to 31 bits are needed");
  if (count > std::numeric_limits<size_t>::max() - start) throw std::invalid_argument("a start beyond 64 bits");
  return {row, kernel, line, most};
}

nb::bytes encode(Flat<const int32_t> values, size_t start, size_t row, size_t kernel, size_t line, int most) {
  const Layout layout = layout_of(row, kernel, line, most, values.size(), start);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i < values.size(); ++i)
      if (std::abs(static_cast<int64_t>(values.data()[i])) >> most) throw std::invalid_argument("a magnitude of more bits");
    out = mix_encode(values.data(), values.size(), start, layout);
  }
  return nb::bytes(out.data(), out.size());
}

void decode(nb::bytes data, size_t start, size_t row, size_t kernel, size_t line, int most, Flat<int32_t> out) {
  const Layout layout = layout_of(row, kernel, line, most, out.size(), start);
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  const size_t size = data.size();
  nb::gil_scoped_release release;
  mix_decode(bytes, size, out.size(), start, layout, out.data());
}

nb::bytes pack_bits(Flat<const uint32_t> values, int width) {
  if (width < 0 || width > 32) throw std::invalid_argument("a width outside 0 to 32");
  std::vector<uint8_t> packed;
  {
    nb::gil_scoped_release release;
    packed = pack(values.data(), values.size(), width);
  }
  return nb::bytes(packed.data(), packed.size());
}

void unpack_bits(nb::bytes data, int width, Flat<uint32_t> values) {
  if (width < 0 || width > 32) throw std::invalid_argument("a width outside 0 to 32");
  if (data.size() < packed_size(values.size(), width)) throw std::invalid_argument("too few bytes for the fields");
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  nb::gil_scoped_release release;
  unpack(bytes, values.size(), width, values.data());
}

}  // namespace

void bind_codes(nb::module_& m) {
  m.def("mix_encode", &encode, nb::arg("values").noconvert(), nb::arg("start"), nb::arg("row"), nb::arg("kernel"),
        nb::arg("line"), nb::arg("most"));
  m.def("mix_decode", &decode, nb::arg("data"), nb::arg("start"), nb::arg("row"), nb::arg("kernel"), nb::arg("line"),
        nb::arg("most"), nb::arg("out").noconvert());
  m.def("pack", &pack_bits, nb::arg("values").noconvert(), nb::arg("width"));
  m.def("unpack", &unpack_bits, nb::arg("data"), nb::arg("width"), nb::arg("values").noconvert());
}

}  // namespace tersenet
