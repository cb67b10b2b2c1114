// Compares every kernel table this machine can run with the portable one, on odd shapes. A program of its
// own, so that it can be built for another processor and run under an emulator:
//
//   CXX="aarch64-linux-gnu-g++ -std=c++20 -O2 -ffp-contract=off -static"
//   for isa in portable neon; do for file in kernels products_dense products_few products_many; do
//     $CXX -march=armv8.2-a+dotprod+fp16 -DPAGEMILL_ISA=$isa -DPAGEMILL_SIMD="\"simd_$isa.h\"" \
//       -DPAGEMILL_TABLE=kernels_$isa -c $file.cpp -o $isa.$file.o; done; done
//   $CXX check.cpp formats.cpp grids.cpp select.cpp weights.cpp threads.cpp *.o -o check &&
//   qemu-aarch64-static ./check
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "formats.h"
#include "half.h"
#include "select.h"
#include "weights.h"

using namespace pagemill;

namespace {

std::mt19937 generator(1);

std::vector<float> random_floats(size_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (auto& v : x) v = normal(generator);
  return x;
}

int failures = 0;

void compare(const char* isa, const std::string& what, const std::vector<float>& got,
             const std::vector<float>& want, float tolerance) {
  float worst = 0, size = 0;
  for (size_t i = 0; i < got.size(); i++) {
    const float error = std::fabs(got[i] - want[i]);
    worst = error <= worst ? worst : error;  // NaN counts
    size = std::max(size, std::fabs(want[i]));
  }
  const bool good = worst <= tolerance * std::max(size, 1e-6f);
  failures += !good;
  printf("%-8s %-28s %s (largest error %.2g of %.2g)\n", isa, what.c_str(), good ? "ok" : "WRONG", worst,
         size);
}

// A quantized format: where its blocks have half-precision numbers, and a byte that keeps others moderate.
struct Quantized {
  std::string name;
  std::vector<int> halves;
  std::pair<int, uint8_t> byte = {-1, 0};
};
const std::vector<Quantized> kQuantized = {
    {"Q8_0", {0}},
    {"Q5_1", {0, 2}},
    {"Q5_0", {0}},
    {"Q4_1", {0, 2}},
    {"Q4_0", {0}},
    {"Q6_K", {208}},
    {"Q5_K", {0, 2}},
    {"Q4_K", {0, 2}},
    {"Q3_K", {108}},
    {"Q2_K", {80, 82}},
    {"IQ4_NL", {0}},
    {"IQ4_XS", {0}},
    {"IQ3_S", {0}},
    {"IQ3_XXS", {0}},
    {"IQ2_S", {0}},
    {"IQ2_XS", {0}},
    {"IQ2_XXS", {0}},
    {"IQ1_S", {0}},
    {"IQ1_M", {}, {55, 0x24}},
    {"MXFP4", {}, {0, 120}},
    {"NVFP4", {}},
    {"NF4", {}, {3, 0x3c}},
    {"FP4", {}, {3, 0x3c}},
    {"TQ2_0", {64}},
    {"TQ1_0", {52}},
    {"Q2_0", {0}},
    {"Q1_0", {0}},
};

// Bytes of a matrix whose scales are sane and whose quants are anything.
std::vector<uint8_t> random_blocks(const Quantized& of, int n, int k) {
  const Format& format = find_format(of.name);
  std::vector<uint8_t> raw((size_t)n * k / format.block * format.bytes);
  for (auto& b : raw) b = (uint8_t)generator();
  for (size_t at = 0; at < raw.size(); at += format.bytes) {
    for (int offset : of.halves) {
      const uint16_t half = float_to_half(0.01f * (1 + generator() % 7));
      raw[at + offset] = (uint8_t)half, raw[at + offset + 1] = (uint8_t)(half >> 8);
    }
    if (of.byte.first >= 0) raw[at + of.byte.first] = of.byte.second;
  }
  return raw;
}

struct Rows {
  std::vector<ActivationGroup> of;
  Activation view;
  Rows(int rows, int groups, int planes)
      : of((size_t)rows * planes * groups), view{of.data(), groups, planes} {}
};

std::vector<float> product(const Kernels& kernels, Pool& pool, const std::string& format,
                           const std::vector<uint8_t>& raw, int n, int k, const std::vector<float>& x,
                           int rows, int planes) {
  Slabs slabs;
  const Matrix matrix(kernels, pool, slabs, {{format, raw.data(), n}}, k);
  const PackedWeight& w = matrix.segments()[0].weight;
  std::vector<float> y((size_t)rows * n + 64);
  if (is_quantized(w.kind)) {
    Rows a(rows, w.groups, planes);
    for (int r = 0; r < rows; r++) kernels.quantize(&x[r * k], 0, k, a.view, r);
    kernels.linear_quantized(w, a.view, rows, 0, w.tiles, y.data(), n);
  } else {
    kernels.linear_dense(w, x.data(), k, rows, 0, w.tiles, y.data(), n);
  }
  y.resize((size_t)rows * n);
  return y;
}

// All rows of a matrix.
std::vector<float> embedded(const Kernels& kernels, Pool& pool, const std::string& format,
                            const std::vector<uint8_t>& raw, int n, int k) {
  Slabs slabs;
  const Matrix matrix(kernels, pool, slabs, {{format, raw.data(), n}}, k);
  std::vector<float> y((size_t)n * k);
  for (int r = 0; r < n; r++) kernels.embed_row(matrix.segments()[0].weight, r, &y[(size_t)r * k]);
  return y;
}

struct Scored {
  int window;
  float softcap;
  bool sinks;
};

// The last tokens of histories that all begin alike and are computed together.
std::vector<float> attention(const Kernels& kernels, CacheKind kind, int dim, int group,
                             const std::vector<int>& histories, int shared, const Scored& scored,
                             const std::vector<float>& numbers) {
  const int history = *std::max_element(histories.begin(), histories.end());
  const int heads = 2, wide = padded(dim), chunks = history / 16 + 2, count = (int)histories.size();
  std::vector<char> cache(chunks * heads * chunk_bytes(kind, dim));
  KvLayer layer{cache.data(), kind, heads, dim, wide, chunk_bytes(kind, dim), heads};
  std::vector<int32_t> pages(chunks);
  for (int i = 0; i < chunks; i++) pages[i] = chunks - 1 - i;
  for (int t = 0; t < history; t++)
    for (int h = 0; h < heads; h++) {
      const int64_t slot = pages[t / 16] * 16 + t % 16;
      const int first = std::min(dim, kKeyGroup);  // a key may come in two parts
      kernels.store_key(layer, slot, h, &numbers[(t * 31 + h) % 1000], 0, first);
      kernels.store_key(layer, slot, h, &numbers[(t * 31 + h) % 1000 + first], first, dim - first);
      kernels.store_value(layer, slot, h, &numbers[(t * 17 + h * 5) % 1000], dim);
    }
  std::vector<float> out((size_t)count * group * dim), scratch(scratch_size(count * group, wide));
  std::vector<Queries> queries;
  for (int i = 0; i < count; i++)
    queries.push_back({numbers.data() + histories[i] % 100, &out[(size_t)i * group * dim], 1,
                       histories[i] - 1, histories[i], pages.data()});
  AttentionTask task{};
  task.queries = queries.data(), task.sequences = count, task.shared = shared, task.group = group;
  task.behind = scored.window ? scored.window - 1 : history;
  task.chunks_per_page = 1, task.kv_head = 1, task.value_dim = dim;
  task.scale = 0.3f, task.softcap = scored.softcap, task.scratch = scratch.data();
  if (scored.sinks) task.sinks = &numbers[77];
  kernels.attend(layer, task);
  return out;
}

// A convolution of 70 channels along seven tokens, then one head of a recurrence over what came of it.
std::vector<float> recurrence(const Kernels& kernels, int dim, const std::vector<float>& numbers) {
  const int count = 7, channels = 70, taps = 4, state = 24;
  const float* x = numbers.data();
  std::vector<float> inputs(count * channels), kept((taps - 1) * channels), s(x, x + state * dim),
      out(count * dim);
  kernels.short_conv(
      {x, channels, inputs.data(), channels, count, channels, taps, x + 500, x + 900, x + 1000, kept.data()},
      0, channels);
  kernels.scan({inputs.data(), (size_t)(channels - dim), x + 300, 1, x + 400, state, x + 700, state,
                out.data(), (size_t)dim, count, dim, state, -0.7f, 0.3f, s.data(), s.data()});
  out.insert(out.end(), s.begin(), s.end());
  out.insert(out.end(), kept.begin(), kept.end());
  return out;
}

// Rows that share the beginning of their histories against each alone: not a bit may differ.
void check_sharing(const Kernels& kernels, const std::vector<float>& numbers) {
  const std::vector<int> histories = {1400, 1105, 1120, 2100, 1300, 1121};
  for (CacheKind kind : {CacheKind::f16, CacheKind::f32, CacheKind::q8})
    for (int dim : {24, 144})
      for (int group : {1, 3, 4})
        for (int shared : {3, 64, 69})
          for (const Scored& scored : {Scored{}, Scored{0, 3.0f, true}}) {
            std::vector<float> alone;
            for (int history : histories) {
              const auto one = attention(kernels, kind, dim, group, {history}, 0, scored, numbers);
              alone.insert(alone.end(), one.begin(), one.end());
            }
            compare(kernels.name,
                    std::to_string(shared) + " chunks shared by heads of " + std::to_string(dim),
                    attention(kernels, kind, dim, group, histories, shared, scored, numbers), alone, 0);
          }
}

// Kernels of one row, by what they do to some numbers.
void check_rows(const Kernels& kernels, const Kernels& portable, const std::vector<float>& numbers) {
  const float *x = numbers.data(), *y = &numbers[999], *z = &numbers[1999];
  for (int n : {5, 16, 70, 576}) {
    const auto same = [&](const std::string& what, auto run) {
      std::vector<float> a(n), b(n);
      run(kernels, a.data()), run(portable, b.data());
      compare(kernels.name, what + " " + std::to_string(n), a, b, 2e-6f);
    };
    same("rms_norm", [&](const Kernels& k, float* out) { k.rms_norm(x, y, out, n, 1e-5f); });
    same("layer_norm", [&](const Kernels& k, float* out) { k.layer_norm(x, y, z, out, n, 1e-5f); });
    same("normalize", [&](const Kernels& k, float* out) { k.normalize(x, out, n); });
    same("scale", [&](const Kernels& k, float* out) { k.scale(x, 0.7f, out, n); });
    same("add_scaled", [&](const Kernels& k, float* out) { k.add_scaled(x, 0.7f, out, n); });
    same("softcap", [&](const Kernels& k, float* out) { k.softcap(x, 0.9f, out, n); });
    same("sigmoid_mul", [&](const Kernels& k, float* out) { k.sigmoid_mul(x, y, false, out, n); });
    same("max_value beside NaN", [&](const Kernels& k, float* out) {
      std::copy_n(x, n, out);
      out[n / 2] = NAN;
      *out = k.max_value(out, n), out[n / 2] = 0;
    });
    for (int kind = 0; kind <= (int)Curve::clamped_silu; kind++) {
      const std::string number = " " + std::to_string(kind) + " of";
      same("gate" + number, [&](const Kernels& k, float* out) { k.gate((Curve)kind, x, y, out, n); });
      if ((Curve)kind != Curve::clamped_silu)
        same("curve" + number, [&](const Kernels& k, float* out) { k.curve((Curve)kind, x, out, n); });
    }
  }
}

// Every quantized format that can be packed is among those that are checked.
void check_formats() {
  for (const std::string& name : matrix_formats()) {
    const bool here = std::any_of(kQuantized.begin(), kQuantized.end(),
                                  [&](const Quantized& format) { return format.name == name; });
    if (here || !is_quantized(find_format(name).kind)) continue;
    printf("%s is not checked\n", name.c_str());
    failures++;
  }
}

void check(const Kernels& kernels, const Kernels& portable, Pool& pool) {
  for (const Quantized& format : kQuantized) {
    const int block = find_format(format.name).block;
    const int n = 70, k = (1184 / block + 1) * block;  // a whole span and a part of one
    const std::vector<uint8_t> raw = random_blocks(format, n, k);
    for (int rows : {1, 2, 3, 4, 5, 6, 11, 12, 13, 20})
      for (int planes : {1, 2}) {
        const std::vector<float> x = random_floats(rows * k);
        compare(kernels.name,
                format.name + " x " + std::to_string(rows) + ", planes " + std::to_string(planes),
                product(kernels, pool, format.name, raw, n, k, x, rows, planes),
                product(portable, pool, format.name, raw, n, k, x, rows, planes), 1e-5f);
      }
    compare(kernels.name, format.name + " as floats", embedded(kernels, pool, format.name, raw, n, k),
            embedded(portable, pool, format.name, raw, n, k), 1e-6f);
  }
  for (int rows : {1, 3, 7, 13}) {
    const int n = 50, k = 96;
    const std::vector<float> dense = random_floats(n * k), x = random_floats(rows * k);
    const std::vector<uint8_t> raw((const uint8_t*)dense.data(), (const uint8_t*)(dense.data() + n * k));
    compare(kernels.name, "F32 x " + std::to_string(rows),
            product(kernels, pool, "F32", raw, n, k, x, rows, 1),
            product(portable, pool, "F32", raw, n, k, x, rows, 1), 1e-5f);
  }
  const std::vector<float> numbers = random_floats(4096);
  for (CacheKind kind : {CacheKind::f16, CacheKind::f32, CacheKind::q8})
    for (int dim : {24, 64, 256})
      for (int group : {1, 3, 4})
        for (int history : {1, 15, 100, 1500})
          for (const Scored& scored : {Scored{}, Scored{50, 3.0f, true}})
            compare(kernels.name,
                    "attention " + std::to_string(dim) + " x " + std::to_string(group) + ", " +
                        std::to_string(history) + (scored.window ? " in a window" : ""),
                    attention(kernels, kind, dim, group, {history}, 0, scored, numbers),
                    attention(portable, kind, dim, group, {history}, 0, scored, numbers), 1e-4f);
  for (int dim : {8, 16, 50})
    compare(kernels.name, "recurrence of " + std::to_string(dim), recurrence(kernels, dim, numbers),
            recurrence(portable, dim, numbers), 1e-5f);
  check_sharing(kernels, numbers);
  check_rows(kernels, portable, numbers);
}

}  // namespace

int main() {
  Pool pool(2);
  check_formats();
  for (const std::string& isa : available_kernels()) check(select_kernels(isa), *kernels_portable(), pool);
  printf("%d wrong\n", failures);
  return failures != 0;
}
