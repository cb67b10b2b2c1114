#include "kv_cache.h"

#include <stdexcept>
#include <string>

namespace pagemill {

KvCache::KvCache(int layers, int num_pages, int page_size, int heads, int dim, bool half)
    : layers_(layers),
      num_pages_(num_pages),
      page_size_(page_size),
      heads_(heads),
      dim_(dim),
      padded_dim_(padded(dim)),
      half_(half) {
  if (page_size % kChunk)
    throw std::invalid_argument("page_size " + std::to_string(page_size) + " is not a multiple of 16");
  chunk_bytes_ = (size_t)kChunk * heads * 2 * padded_dim_ * (half ? 2 : 4);
  memory_ = Block(chunk_bytes_ * layers * (num_slots() / kChunk) + 4096);
}

KvLayer KvCache::layer(int index) const {
  return {memory_.as<char>(chunk_bytes_ * index), half_, heads_, dim_, padded_dim_, heads_ * layers_};
}

}  // namespace pagemill
