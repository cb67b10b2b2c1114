// The Python face of the native module: thin, it checks what would corrupt memory and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "program.h"
#include "sample.h"
#include "select.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace pagemill {
namespace {

template <class T, int kDims>
using Array = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T, int kDims>
using MutableArray = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

// The kernels of one instruction set and the threads that run them.
struct Backend {
  Backend(const std::string& isa, int threads) : kernels(select_kernels(isa)) {
    if (threads < 1 || threads > 1024)
      throw std::invalid_argument("threads must be 1 to 1024, not " + std::to_string(threads));
    pool = std::make_shared<Pool>(threads);
  }
  const Kernels& kernels;
  std::shared_ptr<Pool> pool;
};

using PartArrays = std::vector<std::tuple<std::string, Array<uint8_t, 1>, int>>;

std::shared_ptr<Matrix> make_matrix(const Backend& backend, const PartArrays& arrays, int k) {
  std::vector<Part> parts;
  for (const auto& [format, bytes, rows] : arrays) parts.push_back({format, bytes.data(), rows});
  nb::gil_scoped_release release;
  return std::make_shared<Matrix>(backend.kernels, *backend.pool, parts, k);
}

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_range(const Array<int32_t, 1>& values, int64_t limit, const char* what) {
  for (size_t i = 0; i < values.size(); i++) check(values.data()[i] >= 0 && values.data()[i] < limit, what);
}

// Everything a kernel will index with, once a step: O(tokens + pages).
StepView check_step(const Array<int32_t, 1>& ids, const Array<int32_t, 1>& positions,
                    const Array<int32_t, 1>& slots, const Array<int32_t, 1>& starts,
                    const Array<int32_t, 1>& kv_lens, const Array<int32_t, 2>& pages,
                    const Array<int32_t, 1>& out_rows, int page_size, int vocab, int64_t num_slots,
                    int max_positions) {
  StepView s;
  s.tokens = (int)ids.size(), s.rows = (int)kv_lens.size(), s.sampled = (int)out_rows.size();
  s.page_size = page_size, s.pages_per_row = (int)pages.shape(1);
  check(positions.size() == ids.size() && slots.size() == ids.size(),
        "token_ids, positions and slots differ in length");
  check(starts.size() == kv_lens.size() + 1 && pages.shape(0) == kv_lens.size(),
        "row_starts, kv_lens and page_table differ in rows");
  check(page_size > 0 && page_size % kChunk == 0, "page_size is not a multiple of 16");
  check_range(ids, vocab, "a token id is outside the vocabulary");
  check_range(positions, max_positions, "a position is outside the rope table");
  check_range(slots, num_slots, "a slot is outside the cache");
  check_range(out_rows, s.tokens, "an out_row is not a token of the step");
  check(starts.data()[0] == 0 && starts.data()[s.rows] == s.tokens, "row_starts does not cover the tokens");
  const int64_t num_pages = num_slots / page_size;
  for (int r = 0; r < s.rows; r++) {
    const int begin = starts.data()[r], end = starts.data()[r + 1], length = kv_lens.data()[r];
    check(begin < end && length >= end - begin, "a row has no tokens, or more than its history");
    check(positions.data()[end - 1] == length - 1 && positions.data()[begin] == length - (end - begin),
          "positions do not end a row's history");
    const int needed = (length + page_size - 1) / page_size;
    check(needed <= s.pages_per_row, "a row's pages do not hold its history");
    for (int p = 0; p < needed; p++) {
      const int page = pages.data()[(size_t)r * s.pages_per_row + p];
      check(page >= 0 && page < num_pages, "a page is outside the cache");
    }
  }
  s.token_ids = ids.data(), s.positions = positions.data(), s.slots = slots.data(),
  s.row_starts = starts.data();
  s.kv_lens = kv_lens.data(), s.page_table = pages.data(), s.out_rows = out_rows.data();
  return s;
}

View view(std::pair<int, int> v) { return {v.first, v.second}; }

void define_program(nb::module_& m) {
  nb::class_<Program>(m, "Program")
      .def(
          "__init__", [](Program* self, const Backend& b) { new (self) Program(b.kernels, b.pool); },
          nb::keep_alive<1, 2>())
      .def("buffer", &Program::buffer, "width"_a, "sampled"_a)
      .def("embed", &Program::embed)
      .def("norm",
           [](Program& p, std::pair<int, int> x, std::pair<int, int> added, std::pair<int, int> sum,
              std::shared_ptr<Vector> weight, float eps, int heads, std::pair<int, int> out, bool quantized) {
             p.norm(view(x), view(added), view(sum), std::move(weight), eps, heads, view(out), quantized);
           })
      .def("quantize", [](Program& p, std::pair<int, int> x, int width) { p.quantize(view(x), width); })
      .def("linear", [](Program& p, std::pair<int, int> x, std::shared_ptr<Matrix> w,
                        int out) { p.linear(view(x), std::move(w), out); })
      .def("silu_mul", [](Program& p, std::pair<int, int> x, int width, std::pair<int, int> out,
                          bool quantized) { p.silu_mul(view(x), width, view(out), quantized); })
      .def("linear_silu_mul",
           [](Program& p, std::pair<int, int> x, std::shared_ptr<Matrix> w, int between,
              std::pair<int, int> out,
              bool quantized) { p.linear_silu_mul(view(x), std::move(w), between, view(out), quantized); })
      .def("rope", [](Program& p, std::pair<int, int> x, int heads, int dim,
                      std::shared_ptr<RopeTable> table) { p.rope(view(x), heads, dim, std::move(table)); })
      .def("store_kv",
           [](Program& p, std::pair<int, int> k, std::pair<int, int> v, std::shared_ptr<KvCache> kv,
              int layer) { p.store_kv(view(k), view(v), std::move(kv), layer); })
      .def("attend",
           [](Program& p, std::pair<int, int> q, int heads, std::shared_ptr<KvCache> kv, int layer,
              float scale, std::pair<int, int> out, bool quantized) {
             p.attend(view(q), heads, std::move(kv), layer, scale, view(out), quantized);
           })
      .def("add", [](Program& p, std::pair<int, int> a, std::pair<int, int> b, int width,
                     std::pair<int, int> out) { p.add(view(a), view(b), width, view(out)); })
      .def("gather", &Program::gather)
      .def_prop_ro("arena_bytes", &Program::arena_bytes)
      .def("run",
           [](Program& p, Array<int32_t, 1> ids, Array<int32_t, 1> positions, Array<int32_t, 1> slots,
              Array<int32_t, 1> starts, Array<int32_t, 1> kv_lens, Array<int32_t, 2> pages,
              Array<int32_t, 1> out_rows, int page_size, int vocab, int64_t num_slots, int max_positions) {
             const StepView step = check_step(ids, positions, slots, starts, kv_lens, pages, out_rows,
                                              page_size, vocab, num_slots, max_positions);
             nb::gil_scoped_release release;
             p.run(step);
           })
      .def("profile",
           [](Program& p, Array<int32_t, 1> ids, Array<int32_t, 1> positions, Array<int32_t, 1> slots,
              Array<int32_t, 1> starts, Array<int32_t, 1> kv_lens, Array<int32_t, 2> pages,
              Array<int32_t, 1> out_rows, int page_size, int vocab, int64_t num_slots, int max_positions) {
             return p.profile(check_step(ids, positions, slots, starts, kv_lens, pages, out_rows, page_size,
                                         vocab, num_slots, max_positions));
           })
      // A buffer's rows as (rows, stride) floats. The view is good until the next run.
      .def(
          "rows",
          [](Program& p, int buffer) {
            return nb::ndarray<nb::numpy, float, nb::ndim<2>>(
                p.data(buffer), {(size_t)p.rows(buffer), (size_t)p.stride(buffer)}, nb::handle());
          },
          nb::rv_policy::reference_internal)
      // Room for `tokens` rows before the first run, so that a caller can fill a buffer.
      .def("reserve", &Program::reserve);
}

void define_sample(nb::module_& m) {
  m.def("sample",
        [](const Backend& b, nb::ndarray<float, nb::ndim<2>, nb::device::cpu> logits, int vocab,
           Array<float, 1> temperature, Array<int32_t, 1> top_k, Array<float, 1> top_p, Array<float, 1> min_p,
           Array<uint64_t, 1> seeds, Array<int32_t, 1> positions, Array<int32_t, 1> num_logprobs,
           Array<int32_t, 1> edit_starts, Array<int32_t, 1> edit_ids, Array<float, 1> edit_mul,
           Array<float, 1> edit_add, MutableArray<int32_t, 1> ids, MutableArray<float, 1> logprobs,
           MutableArray<int32_t, 2> top_ids, MutableArray<float, 2> top_logprobs) {
          const size_t rows = logits.shape(0);
          check((size_t)vocab <= logits.shape(1) && logits.stride(1) == 1 && edit_starts.size() == rows + 1,
                "logits and rows differ in shape");
          for (size_t size :
               {temperature.size(), top_k.size(), top_p.size(), min_p.size(), seeds.size(), positions.size(),
                num_logprobs.size(), ids.size(), logprobs.size(), top_ids.shape(0), top_logprobs.shape(0)})
            check(size == rows, "an array does not have one entry a row");
          check(edit_starts.data()[rows] <= (int64_t)edit_ids.size() && edit_ids.size() == edit_mul.size() &&
                    edit_ids.size() == edit_add.size(),
                "the edits differ in length");
          check_range(edit_ids, vocab, "an edit is outside the vocabulary");
          for (size_t r = 0; r < rows; r++)
            check(num_logprobs.data()[r] <= (int64_t)top_ids.shape(1),
                  "a row wants more logprobs than there is room for");
          const SampleArrays arrays{(int)rows,
                                    vocab,
                                    (int)top_ids.shape(1),
                                    logits.data(),
                                    (size_t)logits.stride(0),
                                    temperature.data(),
                                    top_p.data(),
                                    min_p.data(),
                                    top_k.data(),
                                    positions.data(),
                                    num_logprobs.data(),
                                    edit_starts.data(),
                                    edit_ids.data(),
                                    seeds.data(),
                                    edit_mul.data(),
                                    edit_add.data(),
                                    ids.data(),
                                    top_ids.data(),
                                    logprobs.data(),
                                    top_logprobs.data()};
          nb::gil_scoped_release release;
          sample(b.kernels, *b.pool, arrays);
        });
  m.def("uniform", &uniform);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Pagemill's CPU kernels.";
  m.def("instruction_sets", &available_kernels,
        "Names of the kernel variants this machine can run, best first.");
  m.def("matrix_formats", &matrix_formats);
  nb::class_<Backend>(m, "Backend")
      .def(nb::init<const std::string&, int>(), "isa"_a, "threads"_a)
      .def_prop_ro("isa", [](const Backend& b) { return b.kernels.name; })
      .def_prop_ro("threads", [](const Backend& b) { return b.pool->size(); });
  nb::class_<Matrix>(m, "Matrix")
      .def_prop_ro("n", &Matrix::n)
      .def_prop_ro("k", &Matrix::k)
      .def_prop_ro("bytes", &Matrix::bytes)
      .def_prop_ro("quantized", &Matrix::quantized)
      .def_prop_ro("num_segments", [](const Matrix& x) { return x.segments().size(); });
  m.def("matrix", &make_matrix, "backend"_a, "parts"_a, "k"_a);
  nb::class_<Vector>(m, "Vector").def("__len__", [](const Vector& v) { return v.values.size(); });
  m.def("vector", [](Array<float, 1> values) {
    return std::make_shared<Vector>(Vector{{values.data(), values.data() + values.size()}});
  });
  nb::class_<RopeTable>(m, "RopeTable")
      .def_prop_ro("positions", &RopeTable::positions)
      .def("assign", [](RopeTable& table, Array<float, 2> cos, Array<float, 2> sin) {
        check(cos.shape(0) == sin.shape(0) && cos.shape(1) == sin.shape(1), "cos and sin differ in shape");
        table = {
            (int)cos.shape(1), {cos.data(), cos.data() + cos.size()}, {sin.data(), sin.data() + sin.size()}};
      });
  m.def("rope_table", [] { return std::make_shared<RopeTable>(); });
  nb::class_<KvCache>(m, "KvCache")
      .def_prop_ro("bytes", &KvCache::bytes)
      .def_prop_ro("layers", &KvCache::layers)
      .def_prop_ro("page_size", &KvCache::page_size)
      .def_prop_ro("num_slots", &KvCache::num_slots);
  m.def("kv_cache", [](int layers, int num_pages, int page_size, int heads, int dim, bool half) {
    return std::make_shared<KvCache>(layers, num_pages, page_size, heads, dim, half);
  });
  define_program(m);
  define_sample(m);
}

}  // namespace pagemill
