// Gate GEMM that packs relu(x Wg^T) into TwELL words in its epilogue (Hopper, bf16).
//
// The first `hot` neurons may be kept dense: their tiles hold 128 gate columns beside the same neurons' 128 up columns,
// so that one thread has both factors of a hidden value and writes the product (or, for training, both factors).
//
// A persistent grid of clusters of two blocks walks 256 x 256 output tiles, 128 rows a block (`cluster_gemm.cuh`). The two
// blocks share the weight tile: each fetches half and multicasts it, which takes the demand on L2 from 47 to 31 bytes
// per cycle and multiprocessor.
//
// The epilogue stays in registers, and the tensor cores idle meanwhile, so it must be short: round pairs of values to
// bf16 with ReLU, look only at pairs that some lane holds non-zero, keep up to four entries a row and thread in
// registers, and place them by a prefix over the four threads that share a row. A thread with more entries than that
// takes a longer way. Entries of a tile lie in the fixed order of the accumulator fragment, the same in every run.
#include "cluster_gemm.cuh"
#include "tensor_map.cuh"

namespace {

using namespace hopper;

constexpr int KEPT = 4;
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
  int group = threadIdx.x / GROUP_THREADS;
  uint32_t rank = cluster_rank();
  Ring ring(raw, group == 0);
  if (threadIdx.x == 0) ring.init();
  cluster_sync();
  Walk walk(rows, tiles_n, gridDim.x / CLUSTER);
  int hot = hot_tiles * HOT;

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    for (int item = blockIdx.x / CLUSTER; threadIdx.x == 0 && item < walk.items; item += walk.clusters) {
      Tile tile = walk.at(item, rank);
      int cold = tile.n - hot_tiles;
      const CUtensorMap* weight = cold < 0 && rank ? &up : &gate;
      int neuron = cold < 0 ? tile.n * HOT : hot + cold * BLOCK_N + rank * HOT;
      for (int k = 0; k < steps; ++k, ring.next()) {
        ring.claim();
        copy_tile(ring.left(), &x, k * BLOCK_K, tile.row, ring.ready());
        copy_tile_multicast(ring.right() + rank * (B_BYTES / CLUSTER), weight, k * BLOCK_K, neuron, ring.ready(),
                            (1 << CLUSTER) - 1);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int half = group - 1, thread = threadIdx.x % GROUP_THREADS, lane = threadIdx.x % 32;
    float acc[128];
    for (int item = blockIdx.x / CLUSTER; item < walk.items; item += walk.clusters) {
      Tile tile = walk.at(item, rank);
      if (half * GROUP_ROWS >= tile.rows) {
        ring.pass(steps, thread);  // the cluster's last tile, so nothing needs to wait for the warp that passes it
        break;
      }
      ring.multiply(acc, steps, half, thread);
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
  cluster_sync();
}

}  // namespace

// Words of relu(x Wg^T) of all neurons but the first `hot` (a multiple of 128), whose hidden values go to `gated`
// [rows, hot], or, where `projected` is given, gate and up apart. x [rows, width], gate and up [neurons, width], words
// [rows, row_words], `tile_words` a tile of 256. Returns a cudaError_t.
extern "C" int twell_pack_gate(const void* x, const void* gate, const void* up, void* words, void* gated,
                               void* projected, int rows, int neurons, int hot, int width, int row_words,
                               int tile_words, int processors, void* stream) {
  CUtensorMap token, left, right;
  if (hot % HOT || hot >= neurons || !describe(&token, x, rows, width, BLOCK_M) ||
      !describe(&left, gate, neurons, width, HOT) || !describe(&right, up, neurons, width, HOT))
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
