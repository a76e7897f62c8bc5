// Up and down of a sparse gated FFN with the weights stationary in shared memory (Hopper, bf16).
//
// A gather asks L2 for two rows of d per non-zero. Here each multiprocessor keeps a slice of a weight matrix in its
// shared memory for the whole pass and the short lists of non-zeros travel instead. Tokens go in groups of eight, the
// n of mma.m16n8k16; four kernels:
//
//   lists   TwELL words of a group -> list for up (by block of neurons and parity) and for down (by column mod 8)
//   up      a block keeps [neurons of a block, 64 columns] of Wu; rows of the list are the m of the product, the
//           group's tokens its n; of each row only its own token's column is kept: a partial dot product per slice
//   hidden  adds the partial dot products of all slices in a fixed order, times the gate value
//   down    a block keeps [F, 16 columns] of Wd; entries of the list are the k of the product, hidden values stand in
//           the column of their token, all other places are zero
//
// The order of the lists makes the shared-memory accesses free of bank conflicts: neighbouring rows of an up tile
// differ in parity (halves of a 128-byte row are swapped by parity), the eight rows of a down matrix differ modulo 8.
// A group whose lists do not fit, or with an overflowing TwELL tile, is put on the worklist whole.
#include "hopper.cuh"

namespace {

constexpr int TOKENS = 8;            // of a group
constexpr int MOST_ENTRIES = 768;    // of a group
constexpr int UP_COLUMNS = 64;       // of a slice of Wu: rows of 128 bytes
constexpr int UP_SLOTS = 256;        // of a (group, block of neurons)
constexpr int MOST_BLOCKS = 4;
constexpr int DOWN_COLUMNS = 16;     // of a slice of Wd: rows of 32 bytes
constexpr int DOWN_STEPS = 64;       // of a group, 16 entries each
constexpr int DOWN_SLOTS = DOWN_STEPS * 16;
constexpr int BUILD_THREADS = 256, UP_THREADS = 768, DOWN_THREADS = 1024;
constexpr int STAGED_STEPS = 24;     // of a group's down list, kept in shared memory by its warp: three 16-byte words a lane
constexpr int STAGED_BYTES = STAGED_STEPS * 64;
constexpr int MOST_CHUNKS = MOST_ENTRIES / 32;
constexpr int LOCAL_BITS = 11, COLUMN_BITS = 13;

struct Lists {
  uint16_t* up;         // [groups, blocks, UP_SLOTS]: token << 11 | row within the block
  int32_t* up_tiles;    // [groups, blocks]: tiles of 16 slots in use
  uint32_t* source;     // [groups, DOWN_SLOTS]: gate value << 16 | up slot; 0 is padding
  uint16_t* place;      // [groups, DOWN_SLOTS]: token << 13 | column
  int32_t* steps;       // [groups]: steps of 16 down slots in use
  uint32_t* hidden;     // [groups, DOWN_SLOTS]: hidden value << 16 | token << 13 | column
  float* partial;       // [slices, groups, blocks, UP_SLOTS]
};

// Position of slot k of an m16n8k16 step such that a thread's four slots (2t, 2t+1, 2t+8, 2t+9) are neighbours.
__device__ __forceinline__ int position(int k) { return 4 * ((k & 7) >> 1) + (k >> 3) * 2 + (k & 1); }

__global__ void __launch_bounds__(BUILD_THREADS)
    lists_kernel(const int32_t* words, Lists lists, int first_row, int rows, int tiles, int tile_words, int blocks,
                 int block_rows, int32_t* overflow_count, int32_t* overflow_rows) {
  __shared__ uint32_t entries[MOST_ENTRIES];
  __shared__ uint16_t up[MOST_BLOCKS * UP_SLOTS];
  __shared__ uint32_t source[DOWN_SLOTS];
  __shared__ uint16_t place[DOWN_SLOTS];
  __shared__ uint16_t histogram[MOST_CHUNKS][16];
  __shared__ int totals[16], counts[TOKENS], bad;
  int group = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int row = first_row + group * TOKENS + warp;
  if (threadIdx.x == 0) bad = 0;
  for (int i = threadIdx.x; i < MOST_CHUNKS * 16; i += BUILD_THREADS) histogram[i / 16][i % 16] = 0;

  const int32_t* mine = words + static_cast<int64_t>(row) * tiles * tile_words + lane * tile_words;
  int count = row < rows && lane < tiles ? mine[0] : 0, sum = count;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  int before = sum - count;
  if (lane == 31) counts[warp] = sum;
  bool spilled = __any_sync(~0u, count > tile_words - 1);
  __syncthreads();
  if (spilled) bad = 1;
  int start = 0, total = 0;
  for (int token = 0; token < TOKENS; ++token) {
    if (token < warp) start += counts[token];
    total += counts[token];
  }
  if (total > MOST_ENTRIES) bad = 1;
  __syncthreads();
  if (!bad)
    for (int i = 0; i < count; ++i) {
      uint32_t word = mine[1 + i];
      entries[start + before + i] = (word & 0xFFFF0000u) | warp << COLUMN_BITS | (word & 0xFFFFu);
    }
  if (bad) total = 0;
  __syncthreads();

  constexpr int ROUNDS = MOST_ENTRIES / BUILD_THREADS;
  uint32_t entry[ROUNDS];
  int up_rank[ROUNDS], down_rank[ROUNDS];
  uint32_t lower = (1u << lane) - 1;
#pragma unroll
  for (int round = 0; round < ROUNDS; ++round) {
    int index = round * BUILD_THREADS + threadIdx.x, chunk = round * (BUILD_THREADS / 32) + warp;
    bool held = index < total;
    entry[round] = held ? entries[index] : 0;
    int column = entry[round] & ((1 << COLUMN_BITS) - 1), block = column / block_rows;
    int up_key = held ? 2 * block + ((column - block * block_rows) & 1) : 31, down_key = held ? column & 7 : 31;
    uint32_t same = __match_any_sync(~0u, up_key);
    up_rank[round] = __popc(same & lower);
    if (held && up_rank[round] == 0) histogram[chunk][up_key] = __popc(same);
    same = __match_any_sync(~0u, down_key);
    down_rank[round] = __popc(same & lower);
    if (held && down_rank[round] == 0) histogram[chunk][8 + down_key] = __popc(same);
  }
  __syncthreads();
  if (threadIdx.x < 16) {
    int running = 0;
    for (int chunk = 0; chunk < MOST_CHUNKS; ++chunk) {
      int here = histogram[chunk][threadIdx.x];
      histogram[chunk][threadIdx.x] = running;
      running += here;
    }
    totals[threadIdx.x] = running;
    if (running > (threadIdx.x < 8 ? UP_SLOTS / 2 : 2 * DOWN_STEPS)) bad = 1;
  }
  __syncthreads();
  if (bad) {
    if (threadIdx.x < TOKENS && first_row + group * TOKENS + threadIdx.x < rows)
      overflow_rows[atomicAdd(overflow_count, 1)] = first_row + group * TOKENS + threadIdx.x;
    if (threadIdx.x < blocks) lists.up_tiles[group * blocks + threadIdx.x] = 0;
    if (threadIdx.x == 0) lists.steps[group] = 0;
    return;
  }
  int largest = 0;
  for (int key = 8; key < 16; ++key) largest = max(largest, totals[key]);
  int steps = (largest + 1) / 2;
  for (int i = threadIdx.x; i < blocks * UP_SLOTS; i += BUILD_THREADS) up[i] = i & 1;
  for (int i = threadIdx.x; i < steps * 16; i += BUILD_THREADS) {
    int within = i & 15, k = 2 * (within >> 2) + (within & 1);  // the row class of this slot, modulo 8
    source[i] = 0;
    place[i] = k;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < ROUNDS; ++round) {
    int index = round * BUILD_THREADS + threadIdx.x, chunk = round * (BUILD_THREADS / 32) + warp;
    if (index >= total) continue;
    int low = entry[round] & 0xFFFF, column = low & ((1 << COLUMN_BITS) - 1), token = low >> COLUMN_BITS;
    int block = column / block_rows, local = column - block * block_rows, parity = local & 1, kind = column & 7;
    int up_slot = block * UP_SLOTS + 2 * (histogram[chunk][2 * block + parity] + up_rank[round]) + parity;
    int order = histogram[chunk][8 + kind] + down_rank[round];
    int down_slot = order / 2 * 16 + position((order & 1) * 8 + kind);
    up[up_slot] = token << LOCAL_BITS | local;
    source[down_slot] = (entry[round] & 0xFFFF0000u) | up_slot;
    place[down_slot] = low;
  }
  __syncthreads();
  for (int block = 0; block < blocks; ++block) {
    int used = (max(totals[2 * block], totals[2 * block + 1]) + 7) / 8;
    if (threadIdx.x == 0) lists.up_tiles[group * blocks + block] = used;
    uint16_t* out = lists.up + (static_cast<int64_t>(group) * blocks + block) * UP_SLOTS;
    for (int i = threadIdx.x; i < used * 16; i += BUILD_THREADS) out[i] = up[block * UP_SLOTS + i];
  }
  if (threadIdx.x == 0) lists.steps[group] = steps;
  for (int i = threadIdx.x; i < steps * 16; i += BUILD_THREADS) {
    lists.source[static_cast<int64_t>(group) * DOWN_SLOTS + i] = source[i];
    lists.place[static_cast<int64_t>(group) * DOWN_SLOTS + i] = place[i];
  }
}

__device__ __forceinline__ void copy16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void copies_done() {
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
  __syncthreads();
}

__device__ __forceinline__ uint4 load16(uint32_t address) {
  uint4 v;
  asm("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}

__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// What a warp needs of a group for up: its list's first 64 slots and its own part of the tokens.
struct UpGroup {
  int tiles;
  uint32_t pair;
  uint4 low, high;

  __device__ __forceinline__ void load(const __nv_bfloat16* x, const Lists& lists, int group, int first_row, int rows,
                                       int blocks, int block, int width, int column) {
    int lane = threadIdx.x % 32;
    int64_t list = static_cast<int64_t>(group) * blocks + block;
    tiles = lists.up_tiles[list];
    pair = reinterpret_cast<const uint32_t*>(lists.up + list * UP_SLOTS)[lane];
    int row = min(first_row + group * TOKENS + lane / 4, rows - 1);
    const uint4* token = reinterpret_cast<const uint4*>(x + static_cast<int64_t>(row) * width + column);
    low = token[lane % 4], high = token[4 + lane % 4];
  }
};

__global__ void __launch_bounds__(UP_THREADS, 1)
    up_kernel(const __nv_bfloat16* x, const __nv_bfloat16* up, Lists lists, int first_row, int rows, int groups,
              int blocks, int block_rows, int neurons, int width) {
  extern __shared__ __align__(1024) uint8_t raw[];
  uint32_t base = hopper::shared_address(raw);
  int block = blockIdx.x % blocks, slice = blockIdx.x / blocks;
  int first = block * block_rows, held = min(block_rows, neurons - first);
  int stride = gridDim.y * (UP_THREADS / 32), group = blockIdx.y * (UP_THREADS / 32) + threadIdx.x / 32;
  UpGroup next;
  if (group < groups) next.load(x, lists, group, first_row, rows, blocks, block, width, slice * UP_COLUMNS);
  const __nv_bfloat16* from = up + static_cast<int64_t>(first) * width + slice * UP_COLUMNS;
  for (int i = threadIdx.x; i < held * 8; i += UP_THREADS) {
    int row = i / 8, chunk = i % 8;
    copy16(base + row * 128 + (chunk ^ ((row & 1) << 2)) * 16, from + static_cast<int64_t>(row) * width + chunk * 8);
  }
  copies_done();
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, odd = g & 1;
  for (; group < groups; group += stride) {
    UpGroup now = next;
    if (group + stride < groups)
      next.load(x, lists, group + stride, first_row, rows, blocks, block, width, slice * UP_COLUMNS);
    int64_t list = static_cast<int64_t>(group) * blocks + block;
    float* out = lists.partial + (static_cast<int64_t>(slice) * groups * blocks + list) * UP_SLOTS;
    for (int tile = 0; tile < now.tiles; ++tile) {
      if (tile && (tile & 3) == 0)
        now.pair = reinterpret_cast<const uint32_t*>(lists.up + list * UP_SLOTS)[tile * 8 + lane];
      uint32_t upper = __shfl_sync(~0u, now.pair, (tile & 3) * 8 + g / 2);
      uint32_t lower = __shfl_sync(~0u, now.pair, (tile & 3) * 8 + 4 + g / 2);
      int e0 = odd ? upper >> 16 : upper & 0xFFFF, e1 = odd ? lower >> 16 : lower & 0xFFFF;
      uint32_t row0 = base + (e0 & ((1 << LOCAL_BITS) - 1)) * 128 + t * 16;
      uint32_t row1 = base + (e1 & ((1 << LOCAL_BITS) - 1)) * 128 + t * 16;
      uint4 a = load16(row0 + odd * 64), b = load16(row1 + odd * 64);
      uint4 c = load16(row0 + (odd ^ 1) * 64), d = load16(row1 + (odd ^ 1) * 64);
      float sum[4] = {0.f, 0.f, 0.f, 0.f}, more[4] = {0.f, 0.f, 0.f, 0.f};
      multiply(sum, a.x, b.x, a.y, b.y, now.low.x, now.low.y);
      multiply(more, c.x, d.x, c.y, d.y, now.high.x, now.high.y);
      multiply(sum, a.z, b.z, a.w, b.w, now.low.z, now.low.w);
      multiply(more, c.z, d.z, c.w, d.w, now.high.z, now.high.w);
      int token0 = e0 >> LOCAL_BITS, token1 = e1 >> LOCAL_BITS;
      if (token0 >> 1 == t) out[tile * 16 + g] = token0 & 1 ? sum[1] + more[1] : sum[0] + more[0];
      if (token1 >> 1 == t) out[tile * 16 + 8 + g] = token1 & 1 ? sum[3] + more[3] : sum[2] + more[2];
    }
  }
}

__global__ void __launch_bounds__(BUILD_THREADS) hidden_kernel(Lists lists, int groups, int blocks, int slices) {
  __shared__ float products[MOST_BLOCKS * UP_SLOTS];
  int group = blockIdx.x, steps = lists.steps[group];
  int64_t stride = static_cast<int64_t>(groups) * blocks * UP_SLOTS;
  for (int block = 0; block < blocks; ++block) {
    int used = lists.up_tiles[group * blocks + block] * 16;
    const float* from = lists.partial + (static_cast<int64_t>(group) * blocks + block) * UP_SLOTS;
    for (int i = threadIdx.x; i < used; i += BUILD_THREADS) {
      float sum = 0.f;
#pragma unroll 32
      for (int slice = 0; slice < slices; ++slice) sum += from[slice * stride + i];
      products[block * UP_SLOTS + i] = sum;
    }
  }
  __syncthreads();
  int64_t first = static_cast<int64_t>(group) * DOWN_SLOTS;
  for (int i = threadIdx.x; i < steps * 16; i += BUILD_THREADS) {
    uint32_t source = lists.source[first + i], bits = 0;
    if (source) {
      float value = __uint_as_float(source & 0xFFFF0000u) * products[source & 0xFFFF];
      bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    }
    lists.hidden[first + i] = bits << 16 | lists.place[first + i];
  }
}

__device__ __forceinline__ uint32_t own(uint32_t word, int token) {
  return (word >> COLUMN_BITS & 7) == token ? word >> 16 : 0u;
}

// One step: 16 entries times 16 columns, added for the tokens they belong to. `values`: the four entries of this
// thread's places in k; `word`: the entry whose row this lane addresses.
__device__ __forceinline__ void down_step(float (&sum)[4], uint4 values, uint32_t word, uint32_t base, int chunk, int g) {
  int column = word & ((1 << COLUMN_BITS) - 1);
  uint32_t address = base + column * 32 + (chunk ^ (column >> 2 & 1)) * 16, a0, a1, a2, a3;
  asm("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a0), "=r"(a1), "=r"(a2), "=r"(a3) : "r"(address));
  uint32_t b0 = own(values.x, g) | own(values.y, g) << 16, b1 = own(values.z, g) | own(values.w, g) << 16;
  multiply(sum, a0, a1, a2, a3, b0, b1);
}

__global__ void __launch_bounds__(DOWN_THREADS, 1)
    down_kernel(const __nv_bfloat16* down, __nv_bfloat16* y, Lists lists, int first_row, int rows, int groups,
                int neurons, int width, int accumulate) {
  extern __shared__ __align__(1024) uint8_t raw[];
  int slice = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  uint32_t base = hopper::shared_address(raw);
  uint4* staged = reinterpret_cast<uint4*>(raw + neurons * 32 + warp * STAGED_BYTES);
  int stride = gridDim.y * (DOWN_THREADS / 32), group = blockIdx.y * (DOWN_THREADS / 32) + warp, steps = 0;
  uint4 next[3];
  auto fetch = [&](int which) {
    steps = lists.steps[which];
    const uint4* list = reinterpret_cast<const uint4*>(lists.hidden + static_cast<int64_t>(which) * DOWN_SLOTS);
#pragma unroll
    for (int i = 0; i < 3; ++i) next[i] = list[i * 32 + lane];
  };
  if (group < groups) fetch(group);
  const __nv_bfloat16* from = down + slice * DOWN_COLUMNS;
  for (int i = threadIdx.x; i < neurons * 2; i += DOWN_THREADS) {
    int row = i / 2, chunk = i % 2;
    copy16(base + row * 32 + (chunk ^ (row >> 2 & 1)) * 16, from + static_cast<int64_t>(row) * width + chunk * 8);
  }
  copies_done();
  int mine = position((lane & 7) + (lane >> 4) * 8), chunk = lane >> 3 & 1;
  for (; group < groups; group += stride) {
    int here = steps;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 3; ++i) staged[i * 32 + lane] = next[i];
    __syncwarp();
    if (group + stride < groups) fetch(group + stride);
    float sum[4] = {0.f, 0.f, 0.f, 0.f};
    const uint32_t* words = reinterpret_cast<const uint32_t*>(staged);
#pragma unroll 4
    for (int step = 0; step < min(here, STAGED_STEPS); ++step)
      down_step(sum, staged[step * 4 + t], words[step * 16 + mine], base, chunk, g);
    const uint32_t* list = lists.hidden + static_cast<int64_t>(group) * DOWN_SLOTS;
    for (int step = STAGED_STEPS; step < here; ++step)
      down_step(sum, reinterpret_cast<const uint4*>(list + step * 16)[t], list[step * 16 + mine], base, chunk, g);
    // sum: columns g and g+8 of tokens 2t and 2t+1; neighbours swap so that each thread has two columns of a token.
    float take0 = __shfl_xor_sync(~0u, g & 1 ? sum[0] : sum[1], 4);
    float take1 = __shfl_xor_sync(~0u, g & 1 ? sum[2] : sum[3], 4);
    float first0 = g & 1 ? take0 : sum[0], second0 = g & 1 ? sum[1] : take0;
    float first1 = g & 1 ? take1 : sum[2], second1 = g & 1 ? sum[3] : take1;
    int row = first_row + group * TOKENS + 2 * t + (g & 1);
    if (row < rows) {
      auto* out = reinterpret_cast<__nv_bfloat162*>(y + static_cast<int64_t>(row) * width + slice * DOWN_COLUMNS +
                                                    (g & 6));
      if (accumulate) {
        float2 old0 = __bfloat1622float2(out[0]), old1 = __bfloat1622float2(out[4]);
        first0 += old0.x, second0 += old0.y, first1 += old1.x, second1 += old1.y;
      }
      out[0] = __floats2bfloat162_rn(first0, second0);
      out[4] = __floats2bfloat162_rn(first1, second1);
    }
  }
}

}  // namespace

// y (+)= sum of gate * (x . Wu_j) * Wd_j over the entries of TwELL words, for rows first_row .. rows of a pass.
// Buffers hold ceil(pass rows / 8) groups, see Lists. Returns a cudaError_t.
extern "C" int twell_stationary(const void* x, const void* words, const void* up, const void* down, void* y,
                                void* up_list, void* up_tiles, void* source, void* place, void* steps, void* hidden,
                                void* partial, void* overflow_count, void* overflow_rows, int first_row, int end_row,
                                int neurons, int width, int tiles, int tile_words, int blocks, int block_rows,
                                int processors, int accumulate, void* stream_pointer) {
  auto stream = static_cast<cudaStream_t>(stream_pointer);
  Lists lists{static_cast<uint16_t*>(up_list), static_cast<int32_t*>(up_tiles), static_cast<uint32_t*>(source),
              static_cast<uint16_t*>(place),   static_cast<int32_t*>(steps),    static_cast<uint32_t*>(hidden),
              static_cast<float*>(partial)};
  int groups = (end_row - first_row + TOKENS - 1) / TOKENS, slices = width / UP_COLUMNS;
  int up_bytes = block_rows * 128, down_bytes = neurons * 32 + DOWN_THREADS / 32 * STAGED_BYTES;
  cudaError_t status = cudaFuncSetAttribute(up_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, up_bytes);
  if (status == cudaSuccess)
    status = cudaFuncSetAttribute(down_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, down_bytes);
  if (status != cudaSuccess) return status;
  dim3 up_grid(blocks * slices, max(1, processors / (blocks * slices)));
  dim3 down_grid(width / DOWN_COLUMNS, max(1, processors / (width / DOWN_COLUMNS)));
  lists_kernel<<<groups, BUILD_THREADS, 0, stream>>>(static_cast<const int32_t*>(words), lists, first_row, end_row,
                                                     tiles, tile_words, blocks, block_rows,
                                                     static_cast<int32_t*>(overflow_count),
                                                     static_cast<int32_t*>(overflow_rows));
  up_kernel<<<up_grid, UP_THREADS, up_bytes, stream>>>(static_cast<const __nv_bfloat16*>(x),
                                                         static_cast<const __nv_bfloat16*>(up), lists, first_row,
                                                         end_row, groups, blocks, block_rows, neurons, width);
  hidden_kernel<<<groups, BUILD_THREADS, 0, stream>>>(lists, groups, blocks, slices);
  down_kernel<<<down_grid, DOWN_THREADS, down_bytes, stream>>>(static_cast<const __nv_bfloat16*>(down),
                                                               static_cast<__nv_bfloat16*>(y), lists, first_row,
                                                               end_row, groups, neurons, width, accumulate);
  return cudaGetLastError();
}
