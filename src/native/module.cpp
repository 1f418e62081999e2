// tersenet._native: what Python sees. Every function releases the GIL while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>

#include "kernels.hpp"
#include "rans.hpp"

namespace nb = nanobind;
using namespace tersenet;

namespace {

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tables = std::vector<std::vector<uint32_t>>;
using Exceptions = std::vector<std::pair<size_t, int64_t>>;

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  return __builtin_cpu_supports("avx2") ? Isa::avx2 : Isa::scalar;
#else
  return Isa::scalar;
#endif
}

Isa isa_of(const std::string& name) {
  const Isa wanted = name == "scalar" ? Isa::scalar : name == "avx2" ? Isa::avx2 : name == "avx512" ? Isa::avx512 : best_isa();
  if (wanted > best_isa()) throw std::invalid_argument("this machine has no " + name);
  return wanted;
}

nb::bytes to_bytes(const std::vector<uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

nb::bytes encode_symbols(In<uint8_t> symbols, const Tables& frequencies, std::optional<In<uint8_t>> which) {
  if (!symbols.size()) return to_bytes({});
  if (which && which->size() != symbols.size()) throw std::invalid_argument("one class per symbol is needed");
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release release;
    const std::vector<Table> tables(frequencies.begin(), frequencies.end());
    out = encode(symbols.data(), symbols.size(), tables, which ? which->data() : nullptr);
  }
  return to_bytes(out);
}

void decode_symbols(nb::bytes data, const std::vector<uint32_t>& frequencies, Out<uint8_t> out, const std::string& isa) {
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  const Isa path = isa_of(isa);
  nb::gil_scoped_release release;
  const Table table(frequencies);
  Decoder decoder(bytes, data.size(), out.size(), table, path);
  decoder.decode(out.data(), out.size());
  decoder.finish();
}

// values[i] = ((code - zero_point) as fp32) * scale + offset, parameters of unit (start + i) / run, cycling;
// code = (low + place) << split | raw bits.
void decode_uniform(nb::bytes data, const std::vector<uint32_t>& frequencies, int group, int size, int32_t low, int split,
                    nb::bytes raw, size_t start, size_t run, In<float> scale, In<int32_t> zero_point, In<float> offset,
                    Out<float> out, const std::string& isa) {
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  const auto* low_bits = static_cast<const uint8_t*>(raw.data());
  const size_t units = scale.size(), count = out.size(), symbols = (count + group - 1) / group;
  if (!units || !run || (zero_point.size() && zero_point.size() != units) || (offset.size() && offset.size() != units) ||
      group < 1 || group > 3 || size < 1 || split < 0 || split > 24 || (group > 1 && split) ||
      raw.size() < (count * split + 7) / 8)
    throw std::invalid_argument("parameters of another grid");
  const Isa path = isa_of(isa);
  nb::gil_scoped_release release;
  const Table table(frequencies);
  Decoder decoder(bytes, data.size(), symbols, table, path);
  constexpr size_t kTile = 6144;  // symbols per piece: a multiple of 64, so that vectors and raw bits start whole
  std::vector<uint8_t> tile(kTile), digits(group > 1 ? 3 * kTile : 0);
  std::vector<uint32_t> fields(split ? kTile : 0);
  const uint8_t* places = group > 1 ? digits.data() : tile.data();
  size_t done = 0;
  for (size_t at = 0; at < symbols; at += kTile) {
    const size_t piece = std::min(kTile, symbols - at), values = std::min(piece * group, count - done);
    decoder.decode(tile.data(), piece);
    if (group > 1) expand(tile.data(), values, group, size, digits.data());
    if (split) unpack(low_bits + at * split / 8, values, split, fields.data());
    for (size_t i = 0; i < values;) {
      const size_t position = start + done + i, unit = position / run % units;
      const size_t end = std::min(values, i + run - position % run);
      const Line line{low, split, zero_point.size() ? zero_point.data()[unit] : 0, scale.data()[unit],
                      offset.size() ? &offset.data()[unit] : nullptr};
      to_fp32(places + i, split ? fields.data() + i : nullptr, end - i, line, out.data() + done + i, path == Isa::scalar);
      i = end;
    }
    done += values;
  }
  decoder.finish();
}

int decode_trellis(nb::bytes data, const Tables& frequencies, int32_t low, bool plain, int state, const Exceptions& outside,
                   Out<int32_t> out) {
  if (frequencies.size() != 2 || state < 0 || state > 7) throw std::invalid_argument("a trellis needs two tables");
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  nb::gil_scoped_release release;
  const Table tables[2] = {Table(frequencies[0]), Table(frequencies[1])};
  Decoder decoder(bytes, data.size(), out.size(), tables[0], Isa::scalar);
  size_t exception = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const bool odd = state & 1;
    int32_t k = decoder.step(tables[odd]) + low;
    if (exception < outside.size() && outside[exception].first == i) k += static_cast<int32_t>(outside[exception++].second);
    out.data()[i] = trellis_code(k, odd, plain);
    state = kNext[state][k & 1];
  }
  decoder.finish();
  return state;
}

template <typename T>
void histogram(In<T> values, int32_t low, Out<int64_t> counts) {
  nb::gil_scoped_release release;
  std::vector<int64_t> lanes(4 * counts.size());
  const size_t n = values.size(), bins = counts.size();
  const T* v = values.data();
  const auto bin = [&](T value) {
    const auto place = static_cast<size_t>(static_cast<int64_t>(value) - low);
    if (place >= bins) throw std::invalid_argument("a value outside the histogram");
    return place;
  };
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t lane = 0; lane < 4; ++lane) ++lanes[lane * bins + bin(v[i + lane])];
  for (; i < n; ++i) ++lanes[bin(v[i])];
  for (size_t b = 0; b < bins; ++b) counts.data()[b] = lanes[b] + lanes[bins + b] + lanes[2 * bins + b] + lanes[3 * bins + b];
}

bool trellis_indices_of(In<int32_t> codes, bool plain, Out<int32_t> indices, Out<uint8_t> states) {
  if (indices.size() != codes.size() || states.size() != codes.size()) throw std::invalid_argument("outputs of another length");
  nb::gil_scoped_release release;
  return trellis_indices(codes.data(), codes.size(), plain, indices.data(), states.data());
}

template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void round_rows(Matrix<const float> weight, float scale, size_t kernel, In<float> alpha, In<float> beta, Matrix<int32_t> codes) {
  const size_t rows = weight.shape(0), columns = weight.shape(1);
  if (codes.shape(0) != rows || codes.shape(1) != columns || alpha.size() != columns || beta.size() != columns || !kernel)
    throw std::invalid_argument("arrays of different shapes");
  nb::gil_scoped_release release;
  round_with_feedback(weight.data(), rows, columns, scale, kernel, alpha.data(), beta.data(), codes.data());
}

nb::bytes pack_bits(In<uint32_t> values, int width) {
  if (width < 0 || width > 32) throw std::invalid_argument("a width outside 0 to 32");
  return to_bytes(pack(values.data(), values.size(), width));
}

void unpack_bits(nb::bytes data, int width, Out<uint32_t> values) {
  if (width < 0 || width > 32 || data.size() < (values.size() * width + 7) / 8)
    throw std::invalid_argument("too few bytes for the fields");
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  nb::gil_scoped_release release;
  unpack(bytes, values.size(), width, values.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("best_isa", [] { return best_isa() == Isa::avx512 ? "avx512" : best_isa() == Isa::avx2 ? "avx2" : "scalar"; });
  m.def("encode_symbols", &encode_symbols, nb::arg("symbols"), nb::arg("frequencies"), nb::arg("which").none());
  m.def("decode_symbols", &decode_symbols);
  m.def("decode_uniform", &decode_uniform);
  m.def("decode_trellis", &decode_trellis);
  m.def("histogram", &histogram<int8_t>);
  m.def("histogram", &histogram<int16_t>);
  m.def("histogram", &histogram<int32_t>);
  m.def("trellis_indices", &trellis_indices_of);
  m.def("round_with_feedback", &round_rows);
  m.def("pack", &pack_bits);
  m.def("unpack", &unpack_bits);
}
