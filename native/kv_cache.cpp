#include "kv_cache.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pagemill {

KvCache::KvCache(int layers, int num_pages, int page_size, int heads, int dim, CacheKind kind)
    : layers_(layers),
      num_pages_(num_pages),
      page_size_(page_size),
      heads_(heads),
      dim_(dim),
      padded_dim_(padded(dim)),
      kind_(kind),
      chunk_bytes_(chunk_bytes(kind, dim)),
      layer_bytes_(chunk_bytes_ * heads) {
  if (page_size % kChunk)
    throw std::invalid_argument("page_size " + std::to_string(page_size) + " is not a multiple of 16");
  memory_ = Block(layer_bytes_ * layers * (num_slots() / kChunk) + 4096);
}

KvLayer KvCache::layer(int index) const {
  return {memory_.as<char>(layer_bytes_ * index),
          kind_,
          heads_,
          dim_,
          padded_dim_,
          chunk_bytes_,
          heads_ * layers_};
}

bool KvCache::prepare(int first, int last) const {
  const size_t page = layer_bytes_ * layers_ * (page_size_ / kChunk);
  return memory_.populate(page * std::max(first, 0), page * std::min(last, num_pages_));
}

}  // namespace pagemill
