// Keys and values of all layers in pages of `page_size` tokens. What a page holds of all layers lies
// together, so pages that are used for the first time take new memory one after another, not in every layer
// at once.
#pragma once

#include "kernels.h"
#include "memory.h"

namespace pagemill {

class KvCache {
 public:
  KvCache(int layers, int num_pages, int page_size, int heads, int dim, CacheKind kind);
  KvCache(const KvCache&) = delete;
  KvLayer layer(int index) const;
  // Takes the memory of pages `first` to `last` - 1 from the system now, as their first use would. False
  // where the system cannot.
  bool prepare(int first, int last) const;
  int layers() const { return layers_; }
  int page_size() const { return page_size_; }
  int64_t num_slots() const { return (int64_t)num_pages_ * page_size_; }
  int heads() const { return heads_; }
  int dim() const { return dim_; }
  size_t bytes() const { return memory_.size(); }

 private:
  int layers_, num_pages_, page_size_, heads_, dim_, padded_dim_;
  CacheKind kind_;
  size_t chunk_bytes_, layer_bytes_;  // of 16 tokens: of a head, of a layer
  Block memory_;
};

}  // namespace pagemill
