// The grids of the IQ formats: the few points that stand for runs of elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pagemill {

// A grid's points in order, for each of their coordinates the number of its level. Levels ascend.
struct Grid {
  int levels, coordinates;
  std::vector<uint8_t> points;

  const uint8_t* point(int number) const { return &points[(size_t)number * coordinates]; }
};

// Of the format of that name: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S or IQ1_S, whose grid is also IQ1_M's.
const Grid& grid_iq2_xxs();
const Grid& grid_iq2_xs();
const Grid& grid_iq2_s();
const Grid& grid_iq3_xxs();
const Grid& grid_iq3_s();
const Grid& grid_iq1_s();

}  // namespace pagemill
