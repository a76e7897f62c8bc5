// Gate GEMM that packs relu(x Wg^T) into TwELL words in its epilogue (Hopper, bf16).
//
// The first `hot` neurons may be kept dense: their tiles hold 128 gate columns beside the same neurons' 128 up columns,
// so that one thread has both factors of a hidden value and writes the product (or, for training, both factors).
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
#include "tensor_map.cuh"
#include "wgmma256.cuh"

namespace {

constexpr int BLOCK_M = 128, BLOCK_N = 256, BLOCK_K = 64, STAGES = 4, CLUSTER = 2;
constexpr int A_BYTES = BLOCK_M * BLOCK_K * 2, B_BYTES = BLOCK_N * BLOCK_K * 2;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + 1024 + 2 * STAGES * 8;
constexpr int THREADS = 384, KEPT = 4;
constexpr int GROUP = 8;  // pairs of row tiles walked together, so that x and Wg tiles are shared in L2

constexpr int HOT = BLOCK_N / CLUSTER;  // neurons of a hot tile

// Rows from `row` on, `rows` of them (64 where the tile is shared by two clusters), and the tile of columns.
struct Tile {
  int row, rows, n;
};

// The grid's walk. Where the tiles of the last round would leave at least half of the clusters idle, each of them is
// given to two clusters, 64 rows a block.
struct Walk {
  int pairs, tiles_n, clusters, whole, items;

  __device__ __forceinline__ Walk(int rows, int tiles_n_, int clusters_) : tiles_n(tiles_n_), clusters(clusters_) {
    pairs = (rows + BLOCK_M * CLUSTER - 1) / (BLOCK_M * CLUSTER);
    int tiles = pairs * tiles_n, rest = tiles % clusters;
    bool shared = 2 * rest <= clusters;
    whole = shared ? tiles - rest : tiles;
    items = shared ? tiles + rest : tiles;
  }

  __device__ __forceinline__ Tile at(int item, int rank) const {
    int part = item - whole, index = part < 0 ? item : whole + part / 2;
    int width = GROUP * tiles_n, first = index / width * GROUP;
    int height = min(pairs - first, GROUP);
    int row = ((first + index % width % height) * CLUSTER + rank) * BLOCK_M, n = index % width / height;
    return part < 0 ? Tile{row, BLOCK_M, n} : Tile{row + part % 2 * (BLOCK_M / 2), BLOCK_M / 2, n};
  }
};

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
          kept[0] = bits | (column + 8 * i + e);
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
    if (pair << 16 && slot++ < slots) words[slot] = pair << 16 | (column + 8 * i);
    if (pair >> 16 && slot++ < slots) words[slot] = (pair & 0xFFFF0000u) | (column + 8 * i + 1);
  }
}

// Write one row of a hot tile: hidden values relu(g) u, or g and u apart where `projected` is given.
__device__ __forceinline__ void store_hot(const float (&acc)[128], int half, bool inside, __nv_bfloat16* gated,
                                          __nv_bfloat16* projected) {
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    uint32_t pair = rounded(acc[4 * i + 2 * half], acc[4 * i + 2 * half + 1]);
    float low = acc[64 + 4 * i + 2 * half], high = acc[64 + 4 * i + 2 * half + 1];
    if (projected) {
      *reinterpret_cast<__nv_bfloat162*>(projected + 8 * i) = __floats2bfloat162_rn(low, high);
    } else {
      low *= __uint_as_float(pair << 16), high *= __uint_as_float(pair & 0xFFFF0000u);
      __nv_bfloat162 product = __floats2bfloat162_rn(low, high);
      pair = reinterpret_cast<const uint32_t&>(product);
    }
    *reinterpret_cast<uint32_t*>(gated + 8 * i) = pair;
  }
}

__global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    pack_gate_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap gate,
                     const __grid_constant__ CUtensorMap up, int32_t* words, __nv_bfloat16* gated,
                     __nv_bfloat16* projected, int rows, int hot_tiles, int tiles_n, int steps, int row_words,
                     int tile_words) {
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
  Walk walk(rows, tiles_n, gridDim.x / CLUSTER);
  int hot = hot_tiles * HOT;

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      int stage = 0;
      uint32_t phase = 1;
      for (int item = blockIdx.x / CLUSTER; item < walk.items; item += walk.clusters) {
        Tile tile = walk.at(item, rank);
        int cold = tile.n - hot_tiles;
        const CUtensorMap* weight = cold < 0 && rank ? &up : &gate;
        int neuron = cold < 0 ? tile.n * HOT : hot + cold * BLOCK_N + rank * HOT;
        for (int k = 0; k < steps; ++k) {
          uint32_t a = base + stage * STAGE_BYTES, b = a + A_BYTES, ready = full + 8 * stage;
          hopper::barrier_wait(empty + 8 * stage, phase);
          hopper::barrier_expect(ready, STAGE_BYTES);
          hopper::copy_tile(a, &x, k * BLOCK_K, tile.row, ready);
          hopper::copy_tile_multicast(b + rank * (B_BYTES / CLUSTER), weight, k * BLOCK_K, neuron, ready,
                                      (1 << CLUSTER) - 1);
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
    for (int item = blockIdx.x / CLUSTER; item < walk.items; item += walk.clusters) {
      Tile tile = walk.at(item, rank);
      int previous = -1;
      if (half * (BLOCK_M / 2) >= tile.rows) {
        // The other group does this tile, its cluster's last, alone. One warp keeps the ring going: a warp that waits
        // without being waited for could be lapped by two phases and never wake.
        for (int k = 0; k < steps && thread < 32; ++k) {
          hopper::barrier_wait(full + 8 * stage, phase);
          if (thread < CLUSTER) hopper::barrier_arrive_remote(empty + 8 * stage, thread);
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        break;
      }
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
      int row = tile.row + half * 64 + thread / 32 * 16 + lane / 4, quad = 2 * (lane & 3);
      if (tile.n < hot_tiles) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          int64_t place = static_cast<int64_t>(row + 8 * part) * hot + tile.n * HOT + quad;
          store_hot(acc, part, row + 8 * part < rows, gated + place, projected ? projected + place : nullptr);
        }
      } else {
        int cold = tile.n - hot_tiles;
        uint32_t column = hot + cold * BLOCK_N + quad;
        int32_t* place = words + static_cast<int64_t>(row) * row_words + cold * tile_words;
        pack_row(acc, 0, place, row < rows, column, tile_words - 1);
        pack_row(acc, 1, place + static_cast<int64_t>(8) * row_words, row + 8 < rows, column, tile_words - 1);
      }
    }
  }
  __syncwarp();
  hopper::cluster_sync();
}

}  // namespace

// Words of relu(x Wg^T) of all neurons but the first `hot` (a multiple of 128), whose hidden values go to `gated`
// [rows, hot], or, where `projected` is given, gate and up apart. x [rows, width], gate and up [neurons, width], words
// [rows, row_words], `tile_words` a tile of 256. Returns a cudaError_t.
extern "C" int twell_pack_gate(const void* x, const void* gate, const void* up, void* words, void* gated,
                               void* projected, int rows, int neurons, int hot, int width, int row_words,
                               int tile_words, int processors, void* stream) {
  CUtensorMap token, left, right;
  if (hot % HOT || hot >= neurons || !hopper::describe(&token, x, rows, width, BLOCK_M) ||
      !hopper::describe(&left, gate, neurons, width, HOT) || !hopper::describe(&right, up, neurons, width, HOT))
    return cudaErrorInvalidValue;
  cudaError_t status = cudaFuncSetAttribute(pack_gate_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  if (status != cudaSuccess) return status;
  int hot_tiles = hot / HOT, tiles_n = hot_tiles + (neurons - hot + BLOCK_N - 1) / BLOCK_N;
  int pairs = (rows + BLOCK_M * CLUSTER - 1) / (BLOCK_M * CLUSTER);
  int clusters = processors / CLUSTER < 2 * pairs * tiles_n ? processors / CLUSTER : 2 * pairs * tiles_n;
  pack_gate_kernel<<<clusters * CLUSTER, THREADS, SHARED_BYTES, static_cast<cudaStream_t>(stream)>>>(
      token, left, right, static_cast<int32_t*>(words), static_cast<__nv_bfloat16*>(gated),
      static_cast<__nv_bfloat16*>(projected), rows, hot_tiles, tiles_n, width / BLOCK_K, row_words, tile_words);
  return cudaGetLastError();
}
