// Descriptors of bf16 matrices for bulk tensor copies.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

namespace hopper {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

inline Encode encoder() {
  static Encode found = nullptr;
  cudaDriverEntryPointQueryResult status;
  if (!found)
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", reinterpret_cast<void**>(&found), 12000,
                                     cudaEnableDefault, &status);
  return found;
}

// Row-major bf16 [rows, width], fetched in boxes of `box_rows` rows of 64 values with 128-byte swizzle, which
// `operand_descriptor` describes to the tensor cores; what lies outside reads as zero.
inline bool describe(CUtensorMap* map, const void* data, int64_t rows, int width, int box_rows) {
  cuuint64_t sizes[2] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  cuuint64_t strides[1] = {static_cast<cuuint64_t>(width) * 2};
  cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)}, step[2] = {1, 1};
  Encode encode = encoder();
  return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box, step,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace hopper
