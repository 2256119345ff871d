// One variant of all kernels. Compiled once for each, with its own instructions and VARIANT, its name.
#include "attention.h"
#include "heads.h"
#include "kernels.h"
#include "linear.h"
#include "pack.h"
#include "rows.h"
#include "sampling.h"
#include "staging.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

const Kernels *JOIN(VARIANT, _kernels)() {
  static const Kernels kernels = {TEXT(VARIANT), PW, panels_bytes, staged_type, staged_stride,
                                  stage_rows, linear_panels, pack_panels, unpack_rows,
                                  embed_rows, norm_rows, place_heads, sample_rows, W, attend_items, join_states};
  return &kernels;
}
