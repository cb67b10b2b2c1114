// The Python face of the native module: thin, it checks what would corrupt memory and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "choices.h"
#include "formats.h"
#include "limits.h"
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
    slabs = std::make_shared<Slabs>();
  }
  const Kernels& kernels;
  std::shared_ptr<Pool> pool;
  std::shared_ptr<Slabs> slabs;
};

using PartArrays = std::vector<std::tuple<std::string, Array<uint8_t, 1>, int>>;

std::shared_ptr<Matrix> make_matrix(const Backend& backend, const PartArrays& arrays, int k) {
  std::vector<Part> parts;
  for (const auto& [format, bytes, rows] : arrays) parts.push_back({format, bytes.data(), rows});
  nb::gil_scoped_release release;
  return std::make_shared<Matrix>(backend.kernels, *backend.pool, *backend.slabs, parts, k);
}

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_range(const Array<int32_t, 1>& values, int64_t limit, const char* what) {
  for (size_t i = 0; i < values.size(); i++) check(values.data()[i] >= 0 && values.data()[i] < limit, what);
}

// The arrays of a step; their shapes are checked here, what stands in them by check_step.
using Ints = Array<int32_t, 1>;
StepView step_view(const Program& program, const Ints& ids, const Ints& positions, const Ints& slots,
                   const Ints& starts, const Ints& kv_lens, const Array<int32_t, 2>& pages,
                   const Ints& out_rows, int page_size, const std::optional<Ints>& types,
                   const std::optional<Array<int32_t, 2>>& states) {
  StepView s;
  s.tokens = (int)ids.size(), s.rows = (int)kv_lens.size(), s.sampled = (int)out_rows.size();
  s.page_size = page_size, s.pages_per_row = (int)pages.shape(1);
  check(
      positions.size() == ids.size() && slots.size() == ids.size() && (!types || types->size() == ids.size()),
      "token_ids, positions, slots and token_types differ in length");
  check(starts.size() == kv_lens.size() + 1 && pages.shape(0) == kv_lens.size(),
        "row_starts, kv_lens and page_table differ in rows");
  s.token_ids = ids.data(), s.positions = positions.data(), s.slots = slots.data();
  s.row_starts = starts.data(), s.kv_lens = kv_lens.data(), s.page_table = pages.data();
  s.out_rows = out_rows.data(), s.token_types = types ? types->data() : nullptr;
  check(!states || (states->shape(0) == kv_lens.size() && states->shape(1) == 2),
        "state_slots are not two a row");
  s.state_slots = states ? states->data() : nullptr;
  check_step(s, program.limits());
  return s;
}

// Calls work(program, view of the step) from Python's arguments.
template <class F>
auto with_step(F work) {
  return [work](Program& p, Ints ids, Ints positions, Ints slots, Ints starts, Ints kv_lens,
                Array<int32_t, 2> pages, Ints out_rows, int page_size, std::optional<Ints> types,
                std::optional<Array<int32_t, 2>> states) {
    const StepView s =
        step_view(p, ids, positions, slots, starts, kv_lens, pages, out_rows, page_size, types, states);
    nb::gil_scoped_release release;
    return work(p, s);
  };
}

void define_program(nb::module_& m) {
  nb::class_<Program> program(m, "Program");
  program
      .def(
          "__init__", [](Program* self, const Backend& b) { new (self) Program(b.kernels, b.pool); },
          nb::keep_alive<1, 2>())
      .def("buffer", &Program::buffer, "width"_a, "sampled"_a, "repeat"_a, "planes"_a)
      .def("embed", &Program::embed)
      .def("rms_norm", &Program::rms_norm)
      .def("layer_norm", &Program::layer_norm, "x"_a, "weight"_a, "shift"_a.none(), "eps"_a, "heads"_a,
           "out"_a)
      .def("normalize", &Program::normalize)
      .def("curve", &Program::curve)
      .def("gate", &Program::gate)
      .def("sigmoid_mul", &Program::sigmoid_mul)
      .def("scale", &Program::scale)
      .def("softcap", &Program::softcap)
      .def("bias", &Program::bias)
      .def("add", &Program::add)
      .def("copy", &Program::copy)
      .def("rope", &Program::rope)
      .def("quantize", &Program::quantize)
      .def("gather", &Program::gather)
      .def("pool", &Program::pool)
      .def("linear", &Program::linear, "x"_a, "weight"_a, "bias"_a.none(), "out"_a)
      .def("linear_curve", &Program::linear_curve, "x"_a, "weight"_a, "bias"_a.none(), "kind"_a, "out"_a,
           "quantized"_a)
      .def("linear_gate", &Program::linear_gate, "x"_a, "weight"_a, "bias"_a.none(), "kind"_a, "between"_a,
           "out"_a, "quantized"_a)
      .def("linear_heads", &Program::linear_heads)
      .def("route", &Program::route, "logits"_a, "experts"_a, "routing"_a, "selection_bias"_a.none(),
           "scores"_a)
      .def("spread", &Program::spread)
      .def("experts_linear", &Program::experts_linear)
      .def("experts_gate", &Program::experts_gate)
      .def("combine", &Program::combine)
      .def("store_kv", &Program::store_kv)
      .def("store_latent", &Program::store_latent)
      .def("attend", &Program::attend, "q"_a, "heads"_a, "kv"_a, "layer"_a, "value_dim"_a, "scoring"_a,
           "sinks"_a.none(), "out"_a, "quantized"_a)
      .def("attend_dense", &Program::attend_dense)
      .def("short_conv", &Program::short_conv, "x"_a, "weight"_a, "bias"_a.none(), "states"_a, "layer"_a,
           "out"_a)
      .def("mamba2", &Program::mamba2);
  const auto define = [&](const char* name, auto work) {
    program.def(name, with_step(work), "token_ids"_a, "positions"_a, "slots"_a, "row_starts"_a, "kv_lens"_a,
                "page_table"_a, "out_rows"_a, "page_size"_a, "token_types"_a.none(), "state_slots"_a.none());
  };
  define("run", [](Program& p, const StepView& step) { p.run(step); });
  define("profile", [](Program& p, const StepView& step) { return p.profile(step); });
  program
      .def_prop_ro("arena_bytes", &Program::arena_bytes)
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
  m.def("matrix_kinds", &matrix_kinds,
        "(format, kind, bits of a code, looked up in a table, inputs of a scale; 0: all)");
  m.def("packed_bytes", &packed_bytes, "format"_a, "n"_a, "k"_a);
  nb::class_<Backend>(m, "Backend")
      .def(nb::init<const std::string&, int>(), "isa"_a, "threads"_a)
      .def_prop_ro("isa", [](const Backend& b) { return b.kernels.name; })
      .def_prop_ro("threads", [](const Backend& b) { return b.pool->size(); });
  nb::class_<Matrix>(m, "Matrix")
      .def_prop_ro("n", &Matrix::n)
      .def_prop_ro("k", &Matrix::k)
      .def_prop_ro("bytes", &Matrix::bytes)
      .def_prop_ro("quantized", &Matrix::quantized)
      .def_prop_ro("dense", &Matrix::dense)
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
      .def_prop_ro("num_slots", &KvCache::num_slots)
      .def("prepare", &KvCache::prepare, nb::call_guard<nb::gil_scoped_release>());
  m.def("kv_cache", [](int layers, int num_pages, int page_size, int heads, int dim, CacheKind kind) {
    return std::make_shared<KvCache>(layers, num_pages, page_size, heads, dim, kind);
  });
  m.def(
      "kv_token_bytes",
      [](int heads, int dim, CacheKind kind) { return heads * chunk_bytes(kind, dim) / kChunk; }, "heads"_a,
      "dim"_a, "kind"_a, "What a token's keys and values take in one layer.");
  nb::class_<States>(m, "States").def_prop_ro("bytes", &States::bytes);
  m.def("states",
        [](int layers, int slots, int64_t size) { return std::make_shared<States>(layers, slots, size); });
  m.def(
      "limits",
      [](const Backend& b, size_t bytes) {
        nb::gil_scoped_release release;
        const Peaks most = measure_peaks(b.kernels, *b.pool, bytes);
        return std::make_tuple(most.read_bytes, most.int8_ops, most.fp32_ops, most.bf16_ops);
      },
      "backend"_a, "bytes"_a,
      "What this machine reads, and computes of int8, fp32 and bf16, a second at most.");
  define_program(m);
  define_sample(m);
}

}  // namespace pagemill
