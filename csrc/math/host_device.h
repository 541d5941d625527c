/* host_device.h: marks a function that the CPU and the GPU kernels share. No torch header. */
#pragma once

#if defined(__CUDACC__)
#define RLAIF_PL_HD __host__ __device__ __forceinline__
#else
#define RLAIF_PL_HD inline
#endif
