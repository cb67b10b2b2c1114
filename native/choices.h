// How Python says what an instruction works on: a view is (buffer, offset), a choice is its name.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "program.h"

namespace nanobind::detail {

template <>
struct type_caster<pagemill::View> {
  NB_TYPE_CASTER(pagemill::View, const_name("tuple[int, int]"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    std::pair<int, int> pair;
    if (!try_cast(source, pair)) return false;
    value = {pair.first, pair.second};
    return true;
  }
};

template <>
struct type_caster<pagemill::Scoring> {
  NB_TYPE_CASTER(pagemill::Scoring, const_name("tuple[float, int, float]"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    std::tuple<float, int, float> given;
    if (!try_cast(source, given)) return false;
    value = std::make_from_tuple<pagemill::Scoring>(given);
    return true;
  }
};

template <>
struct type_caster<pagemill::Routing> {
  NB_TYPE_CASTER(pagemill::Routing, const_name("tuple[int, bool, bool, float, int, int, bool]"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    std::tuple<int, bool, bool, float, int, int, bool> given;
    if (!try_cast(source, given)) return false;
    value = std::make_from_tuple<pagemill::Routing>(given);
    return true;
  }
};

// The names of an enum's values, in their order.
template <class E>
std::vector<std::string> choices();
template <>
inline std::vector<std::string> choices<pagemill::Ids>() {
  return {"token_ids", "positions", "token_types"};
}
template <>
inline std::vector<std::string> choices<pagemill::CacheKind>() {
  return {"f16", "f32", "q8"};
}
template <>
inline std::vector<std::string> choices<pagemill::Pooling>() {
  return {"mean", "cls", "last"};
}
template <>
inline std::vector<std::string> choices<pagemill::Curve>() {
  return {"silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid", "clamped_silu"};
}

template <class E>
struct choice_caster {
  NB_TYPE_CASTER(E, const_name("str"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    std::string given;
    if (!try_cast(source, given)) return false;
    const std::vector<std::string> names = choices<E>();
    for (size_t i = 0; i < names.size(); i++)
      if (names[i] == given) {
        value = (E)i;
        return true;
      }
    return false;
  }
};
template <>
struct type_caster<pagemill::Ids> : choice_caster<pagemill::Ids> {};
template <>
struct type_caster<pagemill::Pooling> : choice_caster<pagemill::Pooling> {};
template <>
struct type_caster<pagemill::CacheKind> : choice_caster<pagemill::CacheKind> {};
template <>
struct type_caster<pagemill::Curve> : choice_caster<pagemill::Curve> {};

}  // namespace nanobind::detail
