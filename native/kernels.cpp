// Compiled once per instruction set, as are products_*.cpp, with PAGEMILL_SIMD naming its vector header,
// PAGEMILL_ISA its namespace and PAGEMILL_TABLE the function that returns its table. Nothing here may use
// templates or inline functions of the standard library: the linker keeps one copy of those for all
// instruction sets, and it may be the wrong one.
#include "half.h"
#include PAGEMILL_SIMD
#include "attention.h"
#include "products.h"
#include "recurrent.h"
#include "rows.h"
#include "spin.h"

namespace pagemill {

const Kernels* PAGEMILL_TABLE() {
  using namespace PAGEMILL_ISA;
  static constexpr Kernels table{
      kName,     kSignedQ8, quantize,    linear_quantized, linear_dense, embed_row, rms_norm,   layer_norm,
      normalize, add_rows,  add_scaled,  scale_row,        softcap,      curve,     gate,       sigmoid_mul,
      rope,      store_key, store_value, attend,           max_value,    exp_sum,   short_conv, scan,
      spin_int8, spin_fp32, spin_bf16,   read_through,     kSpun};
  return &table;
}

}  // namespace pagemill
