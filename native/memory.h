// Zeroed memory straight from the system, in huge pages where there are.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

namespace pagemill {

constexpr size_t kHugePage = (size_t)2 << 20;

constexpr size_t align_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

// One large piece, given back at once. A piece of several huge pages begins where one begins.
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    const size_t spare = bytes >= 2 * kHugePage ? kHugePage : 0;
    data_ = mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      throw std::bad_alloc();
    }
    if (!spare) return;
    const size_t before = align_up((uintptr_t)data_, kHugePage) - (uintptr_t)data_;
    const size_t end = before + align_up(bytes, sysconf(_SC_PAGESIZE));
    if (before) munmap(data_, before);
    if (before < spare) munmap(as<char>(end), spare - before);
    data_ = as<char>(before);
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  Block(Block&& other) noexcept { swap(other); }
  Block& operator=(Block&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Block() {
    if (data_) munmap(data_, bytes_);
  }

  template <class T>
  T* as(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + offset);
  }
  size_t size() const { return bytes_; }

  // Takes the memory of bytes `begin` to `end` from the system before they are used. False where it cannot:
  // that needs Linux 5.14.
  bool populate(size_t begin, size_t end) const {
#if defined(__linux__)
    constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers lack
    const size_t page = sysconf(_SC_PAGESIZE);
    begin = begin / page * page;
    return begin >= end || madvise(as<char>(begin), end - begin, kPopulateWrite) == 0;
#else
    return begin >= end;
#endif
  }

 private:
  void swap(Block& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Memory for pieces that stay as long as a model does: neighbours share huge pages. It goes back to the
// system slab by slab, with the last piece of each.
class Slabs {
 public:
  struct Piece {
    std::shared_ptr<const Block> slab;
    uint8_t* data = nullptr;
    size_t size = 0;
  };

  Piece take(size_t bytes) {
    const std::lock_guard<std::mutex> hold(mutex_);
    if (!slab_ || used_ + bytes > slab_->size()) {
      slab_ = std::make_shared<const Block>(std::max(bytes, kSlab));
      used_ = 0;
    }
    Piece piece{slab_, slab_->as<uint8_t>(used_), bytes};
    used_ = align_up(used_ + bytes, kAlignment);
    return piece;
  }

 private:
  static constexpr size_t kSlab = (size_t)256 << 20;  // of addresses: what nobody touches costs nothing
  static constexpr size_t kAlignment = 4096;

  std::mutex mutex_;
  std::shared_ptr<const Block> slab_;
  size_t used_ = 0;
};

}  // namespace pagemill
