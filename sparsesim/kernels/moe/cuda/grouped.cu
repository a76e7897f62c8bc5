// Grouped GEMM of bf16 rows sorted by expert with their experts' weights (Hopper).
//
// A persistent grid of clusters of two blocks walks pairs of 128 x 256 output tiles (`cluster_gemm.cuh`). The blocks of a
// cluster share an operand, of which each fetches half and multicasts it: two row tiles of an expert share their weights, and
// an expert's last row tile, where their number is odd, is taken for two column tiles at once, which share the rows.
// So no tile is computed in vain, and the L2 gives 32 KB (40 KB) instead of 48 a stage and block.
//
// Items that are left for a last round, fewer than clusters, have their depth cut into equal shares where that shortens
// the round by a fifth or more. The shares of an item are as many as clusters suffice for, side by side, so that items
// with the same weights ask for them at the same time; where there are too many items for two shares each, the items
// are laid end to end and every cluster takes an equal length. The cluster with an item's first share adds the others'
// sums in their order, so that results repeat bit for bit.
#include "cluster_gemm.cuh"
#include "tensor_map.cuh"

namespace {

using namespace hopper;

constexpr int MOST_EXPERTS = 1024;
constexpr int MOST_SHARES = 4, LEAST_STEPS = 16;  // shares of an item, steps of a share
constexpr int WALKED = 16;       // row tiles of an expert that meet a column tile together, even
constexpr uint16_t BOTH = (1 << CLUSTER) - 1;

// What a block does next: the tile at `row` (rows from `end` on are another expert's) and `column`, from `first` to
// `last` step of its depth; clusters `slot` + 1 to `others` keep the rest of an item's sums.
struct Work {
  int row, end, column, expert, first, last, others;
  bool same_rows;  // the cluster's blocks share rows, else weights
};

// A cluster's way through the tiles: every `clusters`-th of the `whole` first items, then its share of the others.
struct Walk {
  const int* offsets;
  const int* through;  // row tiles of the experts before each
  int experts, columns, steps, clusters, rank, whole, rest, shares, slot, item, place, stop;

  __device__ __forceinline__ Walk(const int* offsets_, const int* through_, int experts_, int columns_, int steps_,
                                  int rank_)
      : offsets(offsets_), through(through_), experts(experts_), columns(columns_), steps(steps_), rank(rank_) {
    clusters = gridDim.x / CLUSTER, slot = item = blockIdx.x / CLUSTER;
    int items = through[experts] * ((columns + 1) / 2);
    rest = items % clusters, whole = items - rest;
    int each = rest ? min(min(clusters / rest, MOST_SHARES), steps / LEAST_STEPS) : 0;
    bool long_enough = steps >= 2 * LEAST_STEPS, few_enough = 5 * rest <= 4 * clusters;
    shares = each > 1 ? rest * each : long_enough && few_enough ? clusters : rest;
    place = begin(slot), stop = begin(slot + 1);
  }

  // Where a share of the last round begins, in steps.
  __device__ __forceinline__ int begin(int share) const {
    return shares ? static_cast<int>(static_cast<int64_t>(rest) * steps * min(share, shares) / shares) : 0;
  }

  __device__ __forceinline__ bool next(Work& work) {
    while (item < whole) {
      work = tile(item);
      item += clusters;
      // A pair of row tiles has no second column tile where their number is odd.
      if (work.same_rows || work.column < columns) return true;
    }
    while (place < stop) {
      int first = place % steps, end = place - first + steps;
      work = tile(whole + place / steps);
      work.first = first, work.last = min(steps, first + stop - place), work.others = slot;
      if (first == 0)
        while (begin(work.others + 1) < end) ++work.others;
      place = min(end, stop);
      if (work.same_rows || work.column < columns) return true;
    }
    return false;
  }

  __device__ __forceinline__ Work tile(int index) const {
    int pairs_n = (columns + 1) / 2, row_tile = index / pairs_n, low = 0, high = experts;
    while (high - low > 1) {
      int middle = (low + high) / 2;
      (through[middle] <= row_tile ? low : high) = middle;
    }
    int local = (row_tile - through[low]) / WALKED * WALKED;
    int height = min(through[low + 1] - through[low] - local, WALKED);
    int walked = index - (through[low] + local) * pairs_n;
    int column = 2 * (walked / height), line = walked % height;
    bool same_rows = line >= height / 2 * 2;
    row_tile = local + (same_rows ? line : line / 2 * 2 + rank);
    column += same_rows ? rank : line % 2;
    return {__ldg(offsets + low) + row_tile * BLOCK_M, __ldg(offsets + low + 1), column, low, 0, steps, slot, same_rows};
  }
};

// Row tiles of all experts before each, by one warp.
__device__ __forceinline__ void count_tiles(const int* offsets, int experts, int* through) {
  int lane = threadIdx.x, each = (experts + 31) / 32, sum = 0;
  for (int e = lane * each; e < min((lane + 1) * each, experts); ++e)
    sum += (offsets[e + 1] - offsets[e] + BLOCK_M - 1) / BLOCK_M;
  int before = sum;
  for (int step = 1; step < 32; step *= 2) {
    int other = __shfl_up_sync(~0u, before, step);
    if (lane >= step) before += other;
  }
  before -= sum;
  for (int e = lane * each; e < min((lane + 1) * each, experts); ++e) {
    through[e] = before;
    before += (offsets[e + 1] - offsets[e] + BLOCK_M - 1) / BLOCK_M;
    if (e == experts - 1) through[experts] = before;
  }
}

__device__ __forceinline__ void group_sync(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(GROUP_THREADS) : "memory");
}

// Keep a part's sums for the cluster that has the item's first part.
__device__ __forceinline__ void keep(const float (&acc)[128], float* sums, int* flag, int group, int thread) {
#pragma unroll
  for (int i = 0; i < 128; ++i) __stcg(sums + i * GROUP_THREADS + thread, acc[i]);
  __threadfence();
  group_sync(group);
  if (thread == 0) asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
}

__device__ __forceinline__ void add_kept(float (&acc)[128], const float* sums, const int* flag, int thread) {
  int ready;
  do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(ready) : "l"(flag) : "memory");
  while (!ready);
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i] += __ldcg(sums + i * GROUP_THREADS + thread);
}

// Let the four threads that share a row turn pairs of columns into runs of eight: word j of thread q becomes the pair
// that thread j held as word q.
__device__ __forceinline__ void transpose(uint32_t (&word)[4]) {
  int quad = threadIdx.x & 3;
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      bool upper = quad & step;
      uint32_t other = __shfl_xor_sync(~0u, upper ? word[i] : word[i + step], step);
      (upper ? word[i] : word[i + step]) = other;
    }
  }
}

__device__ __forceinline__ void store(const float (&acc)[128], __nv_bfloat16* out, int row, int end, int column, int n) {
  int quad = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    __nv_bfloat16* line = out + static_cast<int64_t>(row + 8 * half) * n;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(acc[4 * (i + j) + 2 * half], acc[4 * (i + j) + 2 * half + 1]);
        word[j] = reinterpret_cast<const uint32_t&>(pair);
      }
      transpose(word);
      int at = column + 8 * (i + quad);
      if (row + 8 * half < end && at < n)
        *reinterpret_cast<uint4*>(line + at) = make_uint4(word[0], word[1], word[2], word[3]);
    }
  }
}

__global__ void __launch_bounds__(THREADS, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weights,
                   const int* offsets, __nv_bfloat16* out, float* sums, int* flags, int experts, int n, int steps) {
  extern __shared__ uint8_t raw[];
  __shared__ int through[MOST_EXPERTS + 1];
  int group = threadIdx.x / GROUP_THREADS, rank = cluster_rank();
  Ring ring(raw, group == 0);
  if (threadIdx.x == 0) ring.init();
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
  if (threadIdx.x < 32) count_tiles(offsets, experts, through);
  cluster_sync();
  Walk walk(offsets, through, experts, (n + BLOCK_N - 1) / BLOCK_N, steps, rank);
  Work work;

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    while (threadIdx.x == 0 && walk.next(work)) {
      int weight_row = work.expert * n + work.column * BLOCK_N;
      for (int k = work.first; k < work.last; ++k, ring.next()) {
        uint32_t a = ring.left(), b = ring.right(), ready = ring.ready();
        ring.claim();
        if (work.same_rows) {
          int own = rank * (BLOCK_M / CLUSTER);
          copy_tile_multicast(a + rank * (A_BYTES / CLUSTER), &x, k * BLOCK_K, work.row + own, ready, BOTH);
          copy_tile(b, &weights, k * BLOCK_K, weight_row, ready);
          copy_tile(b + B_BYTES / 2, &weights, k * BLOCK_K, weight_row + BLOCK_N / 2, ready);
        } else {
          int own = rank * (BLOCK_N / CLUSTER);
          copy_tile(a, &x, k * BLOCK_K, work.row, ready);
          copy_tile(a + A_BYTES / 2, &x, k * BLOCK_K, work.row + BLOCK_M / 2, ready);
          copy_tile_multicast(b + rank * (B_BYTES / CLUSTER), &weights, k * BLOCK_K, weight_row + own, ready, BOTH);
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int half = group - 1, thread = threadIdx.x % GROUP_THREADS, lane = threadIdx.x % 32;
    float acc[128];
    while (walk.next(work)) {
      int row = work.row + half * GROUP_ROWS, steps = work.last - work.first;
      if (row >= work.end) {
        ring.pass(steps, thread);
        group_sync(group);
        continue;
      }
      ring.multiply(acc, steps, half, thread);
      constexpr int64_t KEPT = 128 * GROUP_THREADS;
      int kept = (walk.slot * CLUSTER + rank) * 2 + half;
      if (work.first) {
        keep(acc, sums + kept * KEPT, flags + kept, group, thread);
        continue;
      }
      for (int other = walk.slot; other < work.others; ++other) {
        kept += CLUSTER * 2;
        add_kept(acc, sums + kept * KEPT, flags + kept, thread);
      }
      store(acc, out, row + thread / 32 * 16 + lane / 4, work.end, work.column * BLOCK_N, n);
    }
  }
  __syncwarp();
  cluster_sync();
}

// How the kernel is launched: in clusters, and where `early` before the kernel ahead of it in the stream has ended.
struct Launch {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};

  Launch(int clusters, bool early, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {CLUSTER, 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(clusters * CLUSTER), config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SHARED_BYTES, config.stream = stream;
    config.attrs = attributes, config.numAttrs = early ? 2 : 1;
  }
};

}  // namespace

// Clusters that run at a time on the current device, 0 where that cannot be found out.
extern "C" int moe_grouped_clusters() {
  int clusters = 0;
  Launch launch(1, false, nullptr);
  cudaError_t status = cudaFuncSetAttribute(grouped_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  if (status == cudaSuccess) status = cudaOccupancyMaxActiveClusters(&clusters, grouped_kernel, &launch.config);
  return status == cudaSuccess ? clusters : 0;
}

// Least depth of which the last round's items are split; then `sums` and `flags` are needed.
extern "C" int moe_grouped_split_depth() { return (2 * LEAST_STEPS - 1) * BLOCK_K + 1; }

// out [rows, n] = rows of x [rows, k] of expert e, offsets[e] to offsets[e + 1], times weights [experts, n, k] of e,
// all bf16; k and n multiples of 8. `sums` holds clusters x 65536 floats, `flags` clusters x 4 ints. `early`: start
// before the kernel ahead in the stream, which must not be the one that writes the weights, has ended. Returns a
// cudaError_t.
extern "C" int moe_grouped(const void* x, const void* weights, const void* offsets, void* out, void* sums, void* flags,
                           int rows, int experts, int n, int k, int clusters, int early, void* stream) {
  CUtensorMap left, right;
  if (experts > MOST_EXPERTS || n % 8 || k % 8 || !describe(&left, x, rows, k, BLOCK_M / 2) ||
      !describe(&right, weights, static_cast<int64_t>(experts) * n, k, BLOCK_N / 2))
    return cudaErrorInvalidValue;
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (flags) {
    cudaError_t status = cudaMemsetAsync(flags, 0, clusters * CLUSTER * 2 * sizeof(int), queue);
    if (status != cudaSuccess) return status;
  }
  Launch launch(clusters, early, queue);
  return cudaLaunchKernelEx(&launch.config, grouped_kernel, left, right, static_cast<const int*>(offsets),
                            static_cast<__nv_bfloat16*>(out), static_cast<float*>(sums), static_cast<int*>(flags),
                            experts, n, (k + BLOCK_K - 1) / BLOCK_K);
}
