// What the matrix kernels share whose blocks run in clusters of two: in each block one warp feeds a ring of four 48 KB
// stages by bulk tensor copies, 128 rows and 256 columns of both operands, 64 deep, and two warp groups run wgmma on
// 64 x 256 each. A stage is free when both groups of both blocks have read it, since either block may write into it.
#pragma once
#include "hopper.cuh"
#include "wgmma256.cuh"

namespace hopper {

constexpr int BLOCK_M = 128, BLOCK_N = 256, BLOCK_K = 64, STAGES = 4, CLUSTER = 2;
constexpr int A_BYTES = BLOCK_M * BLOCK_K * 2, B_BYTES = BLOCK_N * BLOCK_K * 2;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + 1024 + 2 * STAGES * 8;
constexpr int GROUP_THREADS = 128, THREADS = 3 * GROUP_THREADS;
constexpr int GROUP_ROWS = BLOCK_M / 2;

// The ring of one block, and the place in it where a warp stands.
struct Ring {
  uint32_t base, full, empty, phase;
  int stage = 0;

  // `phase`: 1 for the warp that fills stages, which starts with empty ones, 0 for those that read them.
  __device__ __forceinline__ Ring(const uint8_t* raw, uint32_t phase_) : phase(phase_) {
    base = (shared_address(raw) + 1023) & ~1023u;
    full = base + STAGES * STAGE_BYTES, empty = full + 8 * STAGES;
  }

  // By one thread, before the cluster's blocks meet.
  __device__ __forceinline__ void init() const {
    for (int s = 0; s < STAGES; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 2 * CLUSTER);
    }
    barrier_init_fence();
  }

  __device__ __forceinline__ uint32_t left() const { return base + stage * STAGE_BYTES; }
  __device__ __forceinline__ uint32_t right() const { return left() + A_BYTES; }
  __device__ __forceinline__ uint32_t ready() const { return full + 8 * stage; }

  __device__ __forceinline__ void next() {
    if (++stage == STAGES) stage = 0, phase ^= 1;
  }

  // Wait for an empty stage and announce what will be copied into it.
  __device__ __forceinline__ void claim() const {
    barrier_wait(empty + 8 * stage, phase);
    barrier_expect(ready(), STAGE_BYTES);
  }

  __device__ __forceinline__ void release(int read, int thread) const {
    if (thread < CLUSTER) barrier_arrive_remote(empty + 8 * read, thread);
  }

  // acc = product of `steps` stages, by warp group `half` of the two that multiply.
  __device__ __forceinline__ void multiply(float (&acc)[128], int steps, int half, int thread) {
    int previous = -1;
    for (int k = 0; k < steps; ++k) {
      barrier_wait(ready(), phase);
      uint64_t rows = operand_descriptor(left() + half * (A_BYTES / 2)), columns = operand_descriptor(right());
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < BLOCK_K / 16; ++step)
        wgmma_m64n256k16(acc, rows + 2 * step, columns + 2 * step, k | step);
      wgmma_commit();
      wgmma_wait<1>();
      if (previous >= 0) release(previous, thread);
      previous = stage;
      next();
    }
    wgmma_wait<0>();
    release(previous, thread);
  }

  // Let `steps` stages go by that the other warp group multiplies alone. One warp keeps the ring going, and the group
  // must wait for it before it goes on: a warp that waits without being waited for could be lapped by two phases.
  __device__ __forceinline__ void pass(int steps, int thread) {
    for (int k = 0; k < steps; ++k, next()) {
      if (thread >= 32) continue;
      barrier_wait(ready(), phase);
      release(stage, thread);
    }
  }
};

}  // namespace hopper
