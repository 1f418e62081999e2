// tersenet._native: what Python sees. Every function checks all it is given before it works, and then releases the GIL.
//
// Arrays are taken as they are (C order, the named type, on the CPU) and never converted: the wrong ones are a TypeError.
// What is wrong with values is a ValueError; an array's own length is the only count, so that nothing is read or written
// that Python has not allocated.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>

#include "kernels.hpp"
#include "module_codes.hpp"
#include "rans.hpp"

namespace nb = nanobind;
using namespace tersenet;

namespace {

constexpr int kInterface = 4;  // raised with every change of what Python calls; codec/native.py asks for it

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tables = std::vector<std::vector<uint32_t>>;
using Exceptions = std::vector<std::pair<size_t, int64_t>>;

void need(bool condition, const char* problem) {
  if (!condition) throw std::invalid_argument(problem);
}

bool fits_int32(int64_t value) {
  return value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max();
}

// Whether `part` with any `split` bits behind it is a code of 32 bits.
bool fits_code(int64_t part, int split) {
  return fits_int32(part) && fits_int32(part * (int64_t{1} << split)) && fits_int32((part + 1) * (int64_t{1} << split) - 1);
}

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
  if (name.empty()) return best_isa();
  need(name == "scalar" || name == "avx2" || name == "avx512", "an unknown instruction set");
  const Isa wanted = name == "scalar" ? Isa::scalar : name == "avx2" ? Isa::avx2 : Isa::avx512;
  need(wanted <= best_isa(), "an instruction set that this machine has not");
  return wanted;
}

nb::bytes to_bytes(const std::vector<uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

nb::bytes encode_symbols(In<uint8_t> symbols, const Tables& frequencies, std::optional<In<uint8_t>> which) {
  need(!which || which->size() == symbols.size(), "one class per symbol is needed");
  std::vector<uint8_t> out;
  if (symbols.size()) {
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

// The window of a chunk, checked: `size` places from `low` on, `group` of them in a symbol, `split` raw bits behind each.
Line window(const std::vector<uint32_t>& frequencies, int64_t group, int64_t size, int64_t low, int64_t split) {
  need(group >= 1 && group <= 3 && size >= 1 && size <= kMaxSymbols, "groups of 1 to 3 out of 1 to 32 are needed");
  size_t alphabet = 1;
  for (int64_t g = 0; g < group; ++g) alphabet *= static_cast<size_t>(size);
  need(alphabet == frequencies.size(), "a table for another window");
  need(split >= 0 && split <= 31 && (group == 1 || !split), "0 to 31 raw bits are needed, and none in a group");
  const auto bits = static_cast<int>(split);
  need(fits_int32(low) && fits_code(low, bits) && fits_code(low + size - 1, bits), "a window of codes beyond 32 bits");
  return {static_cast<int32_t>(low), bits, 0, 0, nullptr};
}

// values[i] = (((code - zero_point) as fp32) * scale + offset) * column, parameters of unit (start + i) / run, cycling; the
// columns, if any, are the parts of a run;
// code = (low + place + difference of a listed exception) << split | raw bits.
void decode_uniform(nb::bytes data, const std::vector<uint32_t>& frequencies, int64_t group, int64_t size, int64_t low,
                    int64_t split, nb::bytes raw, const Exceptions& outside, size_t start, size_t run, In<float> scale,
                    In<int32_t> zero_point, In<float> offset, In<float> columns, Out<float> out, const std::string& isa) {
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  const auto* low_bits = static_cast<const uint8_t*>(raw.data());
  const Line whole = window(frequencies, group, size, low, split);
  const size_t units = scale.size(), count = out.size(), each = static_cast<size_t>(group);
  const size_t symbols = count / each + (count % each != 0);
  need(units && (!zero_point.size() || zero_point.size() == units) && (!offset.size() || offset.size() == units),
       "grid parameters of different lengths");
  need(!columns.size() || (run && run % columns.size() == 0), "columns that a run does not consist of");
  need(run && start <= std::numeric_limits<size_t>::max() - count, "a run of 0, or a start beyond 64 bits");
  need(raw.size() == packed_size(count, whole.split), "raw bits of another number of codes");
  const Isa path = isa_of(isa);
  nb::gil_scoped_release release;
  const Table table(frequencies);
  Decoder decoder(bytes, data.size(), symbols, table, path);
  constexpr size_t kTile = 6144;  // symbols per piece: a multiple of 64, so that vectors and raw bits start whole
  std::vector<uint8_t> tile(kTile), digits(each > 1 ? 3 * kTile : 0);
  std::vector<uint32_t> fields(whole.split ? kTile : 0);
  const uint8_t* places = each > 1 ? digits.data() : tile.data();
  const auto line_of = [&](size_t unit, int64_t lowest) {
    const int32_t zero = zero_point.size() ? zero_point.data()[unit] : 0;
    return Line{static_cast<int32_t>(lowest), whole.split, zero, scale.data()[unit], offset.size() ? &offset.data()[unit] : nullptr};
  };
  constexpr int64_t kFar = int64_t{1} << 40;
  size_t done = 0, exception = 0;
  for (size_t at = 0; at < symbols; at += kTile) {
    const size_t piece = std::min(kTile, symbols - at), values = std::min(piece * each, count - done);
    decoder.decode(tile.data(), piece);
    if (each > 1) expand(tile.data(), values, static_cast<int>(group), static_cast<int>(size), digits.data());
    if (whole.split) unpack(low_bits + at / 8 * whole.split, values, whole.split, fields.data());
    const uint32_t* bits = whole.split ? fields.data() : nullptr;
    for (size_t i = 0; i < values;) {
      const size_t position = start + done + i, length = std::min(values - i, run - position % run);
      const Line line = line_of(position / run % units, low);
      to_fp32(places + i, bits ? bits + i : nullptr, length, line, out.data() + done + i, path == Isa::scalar);
      i += length;
    }
    for (; exception < outside.size() && outside[exception].first - done < values; ++exception) {
      const auto [place, difference] = outside[exception];
      const size_t i = place - done;
      need(!exception || outside[exception - 1].first < place, "exceptions that are not in order");
      need(difference > -kFar && difference < kFar && fits_code(low + places[i] + difference, whole.split),
           "an exception beyond 32 bits");
      const Line line = line_of((start + place) / run % units, low + difference);
      to_fp32(places + i, bits ? bits + i : nullptr, 1, line, out.data() + place, true);
    }
    if (columns.size())
      times_columns(out.data() + done, start + done, values, columns.data(), columns.size(), run / columns.size(), path == Isa::scalar);
    done += values;
  }
  need(exception == outside.size(), "exceptions that are not in order");
  decoder.finish();
}

int decode_trellis(nb::bytes data, const Tables& frequencies, int64_t low, bool plain, int state, const Exceptions& outside,
                   Out<int32_t> out) {
  need(frequencies.size() == 2 && state >= 0 && state <= 7, "a trellis needs two tables and a state from 0 to 7");
  constexpr int64_t kMost = int64_t{1} << 30;  // what doubles to a code of 32 bits
  int64_t widest = 0;
  for (const auto& [place, difference] : outside) {
    need(difference > -kMost && difference < kMost, "an index beyond 30 bits");
    widest = std::max(widest, std::abs(difference));
  }
  const auto size = static_cast<int64_t>(std::max(frequencies[0].size(), frequencies[1].size()));
  need(low > -kMost && low < kMost && widest + std::abs(low) + size < kMost, "an index beyond 30 bits");
  const auto* bytes = static_cast<const uint8_t*>(data.data());
  nb::gil_scoped_release release;
  const Table tables[2] = {Table(frequencies[0]), Table(frequencies[1])};
  Decoder decoder(bytes, data.size(), out.size(), tables[0], Isa::scalar);
  const auto lowest = static_cast<int32_t>(low);
  size_t exception = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const bool odd = state & 1;
    int32_t k = decoder.step(tables[odd]) + lowest;
    if (exception < outside.size() && outside[exception].first == i) k += static_cast<int32_t>(outside[exception++].second);
    out.data()[i] = trellis_code(k, odd, plain);
    state = kNext[state][k & 1];
  }
  need(exception == outside.size(), "exceptions that are not in order");
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
  need(indices.size() == codes.size() && states.size() == codes.size(), "outputs of another length");
  nb::gil_scoped_release release;
  return trellis_indices(codes.data(), codes.size(), plain, indices.data(), states.data());
}

void round_rows(Matrix<const float> weight, float scale, size_t kernel, float decay, In<float> alpha,
                In<float> beta, Matrix<int32_t> codes) {
  const size_t rows = weight.shape(0), columns = weight.shape(1);
  need(codes.shape(0) == rows && codes.shape(1) == columns && alpha.size() == columns && beta.size() == columns,
       "arrays of different shapes");
  need(kernel && std::isfinite(scale) && scale > 0, "a kernel of at least 1 and a positive scale are needed");
  need(decay > 0 && decay <= 1, "a decay above 0 and up to 1 is needed");
  nb::gil_scoped_release release;
  need(round_with_feedback(weight.data(), rows, columns, scale, kernel, decay, alpha.data(), beta.data(), codes.data()),
       "a code beyond 32 bits");
}

Rings rings_of(float step, float t, std::vector<float> masks, std::vector<int32_t> ends) {
  Rings rings{step, t, std::move(masks), std::move(ends)};
  if (const char* problem = wrong(rings)) throw std::invalid_argument(problem);
  return rings;
}

void round_to_mode_of(In<float> values, float step, float t, std::vector<float> masks, std::vector<int32_t> ends, Out<float> out,
                      const std::string& isa) {
  need(values.size() == out.size(), "arrays of different lengths");
  const Rings rings = rings_of(step, t, std::move(masks), std::move(ends));
  const bool plain = isa_of(isa) == Isa::scalar;
  nb::gil_scoped_release release;
  round_to_mode(values.data(), values.size(), rings, out.data(), plain);
}

std::tuple<double, double, double, std::vector<double>> mode_gradient_of(In<float> values, In<float> grads, float step, float t,
                                                                         std::vector<float> masks, std::vector<int32_t> ends,
                                                                         bool straight, Out<float> out, const std::string& isa) {
  need(values.size() == grads.size() && values.size() == out.size(), "arrays of different lengths");
  const Rings rings = rings_of(step, t, std::move(masks), std::move(ends));
  const bool plain = isa_of(isa) == Isa::scalar;
  nb::gil_scoped_release release;
  const ModeSums sums = mode_gradient(values.data(), grads.data(), values.size(), rings, straight, out.data(), plain);
  return {sums.by_code, sums.by_log_t, sums.by_u_times_u, {sums.by_masks, sums.by_masks + rings.masks.size()}};
}

auto array(const char* name) { return nb::arg(name).noconvert(); }  // an array that is taken as it is, or refused

}  // namespace

NB_MODULE(_native, m) {
  m.attr("INTERFACE") = kInterface;
  bind_codes(m);
  m.def("best_isa", [] { return best_isa() == Isa::avx512 ? "avx512" : best_isa() == Isa::avx2 ? "avx2" : "scalar"; });
  m.def("encode_symbols", &encode_symbols, array("symbols"), nb::arg("frequencies"), array("which").none());
  m.def("decode_symbols", &decode_symbols, nb::arg("data"), nb::arg("frequencies"), array("out"), nb::arg("isa"));
  m.def("decode_uniform", &decode_uniform, nb::arg("data"), nb::arg("frequencies"), nb::arg("group"), nb::arg("size"),
        nb::arg("low"), nb::arg("split"), nb::arg("raw"), nb::arg("outside"), nb::arg("start"), nb::arg("run"),
        array("scale"), array("zero_point"), array("offset"), array("columns"), array("out"), nb::arg("isa"));
  m.def("decode_trellis", &decode_trellis, nb::arg("data"), nb::arg("frequencies"), nb::arg("low"), nb::arg("plain"),
        nb::arg("state"), nb::arg("outside"), array("out"));
  m.def("histogram", &histogram<int8_t>, array("values"), nb::arg("low"), array("counts"));
  m.def("histogram", &histogram<int16_t>, array("values"), nb::arg("low"), array("counts"));
  m.def("histogram", &histogram<int32_t>, array("values"), nb::arg("low"), array("counts"));
  m.def("trellis_indices", &trellis_indices_of, array("codes"), nb::arg("plain"), array("indices"), array("states"));
  m.def("round_with_feedback", &round_rows, array("weight"), nb::arg("scale"), nb::arg("kernel"), nb::arg("decay"),
        array("alpha"), array("beta"), array("codes"));
  m.def("round_to_mode", &round_to_mode_of, array("values"), nb::arg("step"), nb::arg("t"), nb::arg("masks"), nb::arg("ends"),
        array("out"), nb::arg("isa"));
  m.def("mode_gradient", &mode_gradient_of, array("values"), array("grads"), nb::arg("step"), nb::arg("t"), nb::arg("masks"),
        nb::arg("ends"), nb::arg("straight"), array("out"), nb::arg("isa"));
}
