// Decode of a sparse gated FFN for 1 to 8 tokens (Hopper or later Ampere, bf16): memory-bound from end to end.
//
//   hidden  a warp reads two gate rows at once, all loads in flight before the first use; where a token's gate is
//           positive it goes on to the up row. Hidden values, zeros included, go to [tokens, F] in float.
//   down    a block owns 16 columns of one token: each warp compacts its share of F by ballots into a list in shared
//           memory and gathers 32 bytes an entry; sums over warps in a fixed order.
//
// Both kernels are launched programmatically dependent on what precedes them in the stream: the gate rows of `hidden`
// are on their way before x is there, and the blocks of `down` are in place when `hidden` ends. So the gate must not
// be written by the kernel just before; everything else is read, and anything written, after that kernel has ended.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cstdint>

namespace {

constexpr int HIDDEN_WARPS = 11, NEURONS = 2;  // F 5632 is then 256 blocks: two on each of 128 multiprocessors
constexpr int DOWN_WARPS = 8, COLUMNS = 16, LIST = 64;

__device__ __forceinline__ float dot8(uint4 a, uint4 b) {
  const __nv_bfloat162* left = reinterpret_cast<const __nv_bfloat162*>(&a);
  const __nv_bfloat162* right = reinterpret_cast<const __nv_bfloat162*>(&b);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 l = __bfloat1622float2(left[i]), r = __bfloat1622float2(right[i]);
    sum = fmaf(l.x, r.x, fmaf(l.y, r.y, sum));
  }
  return sum;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

__device__ __forceinline__ uint4 stream(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

template <int TOKENS, int CHUNKS>
__global__ void __launch_bounds__(HIDDEN_WARPS * 32, 2)
    hidden_kernel(const __nv_bfloat16* x, const __nv_bfloat16* gate, const __nv_bfloat16* up, float* hidden, int neurons,
                  int width) {
  extern __shared__ uint4 tokens[];
  asm volatile("griddepcontrol.launch_dependents;");
  int lane = threadIdx.x % 32, first = (blockIdx.x * HIDDEN_WARPS + threadIdx.x / 32) * NEURONS, words = width / 8;
  float sum[NEURONS][TOKENS] = {};
  uint4 rows[NEURONS][CHUNKS];
  auto load = [&](const __nv_bfloat16* from, int neuron, int begin, uint4 (&to)[CHUNKS]) {
    const uint4* row = reinterpret_cast<const uint4*>(from + static_cast<int64_t>(neuron) * width);
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i)
      if (begin + i * 32 + lane < words) to[i] = stream(row + begin + i * 32 + lane);
  };
  auto add = [&](const uint4 (&from)[CHUNKS], int begin, int token, float& to) {
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i)
      if (begin + i * 32 + lane < words) to += dot8(from[i], tokens[token * words + begin + i * 32 + lane]);
  };
#pragma unroll
  for (int n = 0; n < NEURONS; ++n)
    if (first + n < neurons) load(gate, first + n, 0, rows[n]);
  asm volatile("griddepcontrol.wait;" ::: "memory");
  for (int i = threadIdx.x; i < TOKENS * words; i += HIDDEN_WARPS * 32)
    tokens[i] = reinterpret_cast<const uint4*>(x)[i];
  __syncthreads();
  for (int begin = 0; begin < words; begin += CHUNKS * 32) {
#pragma unroll
    for (int n = 0; n < NEURONS; ++n) {
      if (first + n >= neurons) break;
      if (begin) load(gate, first + n, begin, rows[n]);
#pragma unroll
      for (int token = 0; token < TOKENS; ++token) add(rows[n], begin, token, sum[n][token]);
    }
  }
#pragma unroll
  for (int n = 0; n < NEURONS; ++n) {
    if (first + n >= neurons) break;
    float gated[TOKENS], value[TOKENS] = {};
    bool active = false;
#pragma unroll
    for (int token = 0; token < TOKENS; ++token) {
      gated[token] = fmaxf(__bfloat162float(__float2bfloat16_rn(warp_sum(sum[n][token]))), 0.f);
      active |= gated[token] > 0.f;
    }
    if (active)
      for (int begin = 0; begin < words; begin += CHUNKS * 32) {
        load(up, first + n, begin, rows[n]);
#pragma unroll
        for (int token = 0; token < TOKENS; ++token) add(rows[n], begin, token, value[token]);
      }
#pragma unroll
    for (int token = 0; token < TOKENS; ++token) {
      float product = active ? gated[token] * warp_sum(value[token]) : 0.f;
      if (lane == 0) hidden[static_cast<int64_t>(token) * neurons + first + n] = product;
    }
  }
}

__global__ void __launch_bounds__(DOWN_WARPS * 32)
    down_kernel(const float* hidden, const __nv_bfloat16* down, __nv_bfloat16* y, int neurons, int width) {
  __shared__ float values[DOWN_WARPS][LIST];
  __shared__ int columns[DOWN_WARPS][LIST];
  __shared__ float sums[DOWN_WARPS][COLUMNS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = blockIdx.y, held = 0;
  int share = (neurons / 32 + DOWN_WARPS - 1) / DOWN_WARPS * 32, first = warp * share;
  int last = min(first + share, neurons);
  const float* mine = hidden + static_cast<int64_t>(token) * neurons;
  const uint4* from = reinterpret_cast<const uint4*>(down + blockIdx.x * COLUMNS) + lane % 2;
  float acc[8] = {};
  auto gather = [&](int count) {
    __syncwarp();
    for (int i = lane / 2; i < count; i += 16) {
      uint4 row = from[static_cast<int64_t>(columns[warp][i]) * (width / 8)];
      float value = values[warp][i];
      const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(&row);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float2 pair = __bfloat1622float2(pairs[j]);
        acc[2 * j] = fmaf(value, pair.x, acc[2 * j]);
        acc[2 * j + 1] = fmaf(value, pair.y, acc[2 * j + 1]);
      }
    }
    __syncwarp();
  };
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  constexpr int AHEAD = 8;
  for (int begin = first; begin < last; begin += 32 * AHEAD) {
    float value[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      int column = begin + i * 32 + lane;
      value[i] = column < last ? mine[column] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      uint32_t active = __ballot_sync(~0u, value[i] != 0.f);
      if (!active) continue;
      if (value[i] != 0.f) {
        int slot = held + __popc(active & ((1u << lane) - 1));
        values[warp][slot] = value[i];
        columns[warp][slot] = begin + i * 32 + lane;
      }
      held += __popc(active);
      if (held > LIST - 32) gather(held), held = 0;
    }
  }
  gather(held);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int step = 16; step > 1; step /= 2) acc[j] += __shfl_xor_sync(~0u, acc[j], step);
  if (lane < 2)
    for (int j = 0; j < 8; ++j) sums[warp][lane * 8 + j] = acc[j];
  __syncthreads();
  if (threadIdx.x < COLUMNS) {
    float total = 0.f;
    for (int i = 0; i < DOWN_WARPS; ++i) total += sums[i][threadIdx.x];
    y[static_cast<int64_t>(token) * width + blockIdx.x * COLUMNS + threadIdx.x] = __float2bfloat16_rn(total);
  }
}

// Launch a kernel that may start before the one ahead of it in the stream has ended.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

template <int TOKENS>
cudaError_t launch_hidden(const void* x, const void* gate, const void* up, void* hidden, int neurons, int width,
                          cudaStream_t stream) {
  constexpr int CHUNKS = TOKENS <= 4 ? 8 : 4;
  constexpr int per_block = HIDDEN_WARPS * NEURONS;
  auto* kernel = hidden_kernel<TOKENS, CHUNKS>;
  int shared = TOKENS * width * 2;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  return launch(kernel, dim3((neurons + per_block - 1) / per_block), HIDDEN_WARPS * 32, shared, stream, x, gate, up,
                hidden, neurons, width);
}

}  // namespace

// y = (relu(x Wg^T) * (x Wu^T)) Wd for tokens 1, 2, 4 or 8; hidden is float [tokens, neurons]. Returns a cudaError_t.
extern "C" int twell_decode(const void* x, const void* gate, const void* up, const void* down, void* hidden, void* y,
                            int tokens, int neurons, int width, void* stream_pointer) {
  auto stream = static_cast<cudaStream_t>(stream_pointer);
  cudaError_t status = cudaErrorInvalidValue;
  if (tokens == 1) status = launch_hidden<1>(x, gate, up, hidden, neurons, width, stream);
  if (tokens == 2) status = launch_hidden<2>(x, gate, up, hidden, neurons, width, stream);
  if (tokens == 4) status = launch_hidden<4>(x, gate, up, hidden, neurons, width, stream);
  if (tokens == 8) status = launch_hidden<8>(x, gate, up, hidden, neurons, width, stream);
  if (status != cudaSuccess) return status;
  return launch(down_kernel, dim3(width / COLUMNS, tokens), DOWN_WARPS * 32, 0, stream, hidden, down, y, neurons,
                width);
}
