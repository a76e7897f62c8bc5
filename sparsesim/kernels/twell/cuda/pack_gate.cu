// Gate GEMM that packs relu(x Wg^T) into TwELL words in its epilogue (Hopper, bf16).
//
// A persistent grid of clusters of two blocks walks 256 x 256 output tiles, 128 rows a block. In each block one warp
// feeds a ring of four 48 KB stages by bulk tensor copies and two warp groups run wgmma on 64 x 256 each. The two
// blocks share the weight tile: each fetches half and multicasts it, which takes the demand on L2 from 47 to 31 bytes
// per cycle and multiprocessor.
//
// The epilogue stays in registers, and the tensor cores idle meanwhile, so it must be short: round pairs of values to
// bf16 with ReLU, look only at pairs that some lane holds non-zero, keep up to four entries a row and thread in
// registers, and place them by a prefix over the four threads that share a row. A thread with more entries than that
// takes a longer way. Entries of a tile lie in the fixed order of the accumulator fragment, the same in every run.
#include "hopper.cuh"
#include "wgmma256.cuh"

namespace {

constexpr int BLOCK_M = 128, BLOCK_N = 256, BLOCK_K = 64, STAGES = 4, CLUSTER = 2;
constexpr int A_BYTES = BLOCK_M * BLOCK_K * 2, B_BYTES = BLOCK_N * BLOCK_K * 2;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + 1024 + 2 * STAGES * 8;
constexpr int THREADS = 384, KEPT = 4;
constexpr int GROUP = 8;  // pairs of row tiles walked together, so that x and Wg tiles are shared in L2

struct Tile {
  int m, n;
};

__device__ __forceinline__ Tile locate(int index, int pairs, int tiles_n, int rank) {
  int width = GROUP * tiles_n, first = index / width * GROUP;
  int height = min(pairs - first, GROUP);
  return {(first + index % width % height) * CLUSTER + rank, index % width / height};
}

// Two accumulators as bf16 with ReLU: the first in the low half.
__device__ __forceinline__ uint32_t rounded(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Write count and entries of one row of the tile; the four threads of a quad hold 64 of its columns each.
__device__ __forceinline__ void pack_row(const float (&acc)[128], int half, int32_t* words, bool inside,
                                         uint32_t column, int slots) {
  uint32_t kept[KEPT] = {};
  int found = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    uint32_t pair = rounded(acc[4 * i + 2 * half], acc[4 * i + 2 * half + 1]);
    if (__any_sync(~0u, pair)) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        uint32_t bits = e ? pair & 0xFFFF0000u : pair << 16;
        if (bits) {
#pragma unroll
          for (int j = KEPT - 1; j > 0; --j) kept[j] = kept[j - 1];
          kept[0] = bits | column | (8 * i + e);
          ++found;
        }
      }
    }
  }
  int quad = threadIdx.x & 3, before = found, other = __shfl_up_sync(~0u, before, 1, 4);
  if (quad >= 1) before += other;
  other = __shfl_up_sync(~0u, before, 2, 4);
  if (quad >= 2) before += other;
  if (!inside) return;
  if (quad == 3) words[0] = before;
  if (found <= KEPT) {
#pragma unroll
    for (int j = 0; j < KEPT; ++j)
      if (j < found && before - 1 - j < slots) words[before - j] = kept[j];
    return;
  }
  int slot = before - found;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    uint32_t pair = rounded(acc[4 * i + 2 * half], acc[4 * i + 2 * half + 1]);
    if (pair << 16 && slot++ < slots) words[slot] = pair << 16 | column | (8 * i);
    if (pair >> 16 && slot++ < slots) words[slot] = (pair & 0xFFFF0000u) | column | (8 * i + 1);
  }
}

__global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    pack_gate_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap gate, int32_t* words,
                     int rows, int tiles_n, int steps, int row_words, int tile_words) {
  extern __shared__ uint8_t raw[];
  uint32_t base = (hopper::shared_address(raw) + 1023) & ~1023u, full = base + STAGES * STAGE_BYTES;
  uint32_t empty = full + 8 * STAGES;
  int group = threadIdx.x / 128;
  uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
      hopper::barrier_init(full + 8 * s, 1);
      hopper::barrier_init(empty + 8 * s, 2 * CLUSTER);
    }
    hopper::barrier_init_fence();
  }
  hopper::cluster_sync();
  int pairs = (rows + BLOCK_M * CLUSTER - 1) / (BLOCK_M * CLUSTER);
  int tiles = pairs * tiles_n, clusters = gridDim.x / CLUSTER;

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      int stage = 0;
      uint32_t phase = 1;
      for (int index = blockIdx.x / CLUSTER; index < tiles; index += clusters) {
        Tile tile = locate(index, pairs, tiles_n, rank);
        for (int k = 0; k < steps; ++k) {
          uint32_t a = base + stage * STAGE_BYTES, b = a + A_BYTES, ready = full + 8 * stage;
          hopper::barrier_wait(empty + 8 * stage, phase);
          hopper::barrier_expect(ready, STAGE_BYTES);
          hopper::copy_tile(a, &x, k * BLOCK_K, tile.m * BLOCK_M, ready);
          hopper::copy_tile_multicast(b + rank * (B_BYTES / CLUSTER), &gate, k * BLOCK_K,
                                      tile.n * BLOCK_N + rank * (BLOCK_N / CLUSTER), ready, (1 << CLUSTER) - 1);
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int half = group - 1, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    int stage = 0;
    uint32_t phase = 0;
    float acc[128];
    for (int index = blockIdx.x / CLUSTER; index < tiles; index += clusters) {
      Tile tile = locate(index, pairs, tiles_n, rank);
      int previous = -1;
      for (int k = 0; k < steps; ++k) {
        hopper::barrier_wait(full + 8 * stage, phase);
        uint32_t a = base + stage * STAGE_BYTES;
        uint64_t left = hopper::operand_descriptor(a + half * (A_BYTES / 2));
        uint64_t right = hopper::operand_descriptor(a + A_BYTES);
        hopper::wgmma_fence();
#pragma unroll
        for (int step = 0; step < BLOCK_K / 16; ++step)
          hopper::wgmma_m64n256k16(acc, left + 2 * step, right + 2 * step, k | step);
        hopper::wgmma_commit();
        hopper::wgmma_wait<1>();
        if (previous >= 0 && thread < CLUSTER) hopper::barrier_arrive_remote(empty + 8 * previous, thread);
        previous = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      hopper::wgmma_wait<0>();
      if (thread < CLUSTER) hopper::barrier_arrive_remote(empty + 8 * previous, thread);
      int row = tile.m * BLOCK_M + half * 64 + thread / 32 * 16 + lane / 4;
      uint32_t column = tile.n * BLOCK_N + 2 * (lane & 3);
      int32_t* place = words + static_cast<int64_t>(row) * row_words + tile.n * tile_words;
      pack_row(acc, 0, place, row < rows, column, tile_words - 1);
      pack_row(acc, 1, place + static_cast<int64_t>(8) * row_words, row + 8 < rows, column, tile_words - 1);
    }
  }
  __syncwarp();
  hopper::cluster_sync();
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode encoder() {
  static Encode found = nullptr;
  cudaDriverEntryPointQueryResult status;
  if (!found)
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", reinterpret_cast<void**>(&found), 12000,
                                     cudaEnableDefault, &status);
  return found;
}

bool describe(CUtensorMap* map, const void* data, int rows, int width, int box_rows) {
  cuuint64_t sizes[2] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  cuuint64_t strides[1] = {static_cast<cuuint64_t>(width) * 2};
  cuuint32_t box[2] = {BLOCK_K, static_cast<cuuint32_t>(box_rows)}, step[2] = {1, 1};
  Encode encode = encoder();
  return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box, step,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

// Words of relu(x Wg^T); x [rows, width], gate [neurons, width], words [rows, row_words], `tile_words` a tile of 256.
// Returns a cudaError_t.
extern "C" int twell_pack_gate(const void* x, const void* gate, void* words, int rows, int neurons, int width,
                               int row_words, int tile_words, int processors, void* stream) {
  CUtensorMap left, right;
  if (!describe(&left, x, rows, width, BLOCK_M) || !describe(&right, gate, neurons, width, BLOCK_N / CLUSTER))
    return cudaErrorInvalidValue;
  cudaError_t status = cudaFuncSetAttribute(pack_gate_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  if (status != cudaSuccess) return status;
  int tiles_n = (neurons + BLOCK_N - 1) / BLOCK_N;
  int pairs = (rows + BLOCK_M * CLUSTER - 1) / (BLOCK_M * CLUSTER);
  int clusters = processors / CLUSTER < pairs * tiles_n ? processors / CLUSTER : pairs * tiles_n;
  pack_gate_kernel<<<clusters * CLUSTER, THREADS, SHARED_BYTES, static_cast<cudaStream_t>(stream)>>>(
      left, right, static_cast<int32_t*>(words), rows, tiles_n, width / BLOCK_K, row_words, tile_words);
  return cudaGetLastError();
}
