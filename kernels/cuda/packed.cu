// Products of up to 16 vectors with a matrix of 1- or 2-bit codes, computed exactly on the int8 tensor cores.
//
//   out[b, i] = row_scale[i] * sum_j level[i, j] * column_scale[j] * x[b, j],   level = step * code - offset
//
// A vector becomes fixed point: every entry is rounded to 23 bits relative to the largest entry of its vector and
// split into three signed bytes, which are three columns of the right operand of a tensor-core product. The left
// operand is made of the packed bits with one AND per four weights and plane: bit k of the four bytes of a word, left
// where it is, is the number 2^k four times. Everything after that is integer arithmetic, so the result does not depend
// on the order of summation: it is the same bit by bit for every launch shape. A vector with an infinity or a NaN gives
// NaN.
//
// One warp owns 32 rows and every `across`-th step of 512 columns; the warps of a block that share rows add up in shared
// memory. The four lanes of a quad hold 128 adjacent columns each, so a row of a step is 64 adjacent bytes.
//
// Compile with -DPLANES=1|2 -DTILES=1|3|6 -DALIGN=16|4|1 -DTHREADS=...: bits per weight, groups of eight digit columns
// (three to a vector), the alignment in bytes of every row of the packed matrix, and the most threads of a block, which
// sets the registers of a thread. No header is needed.

typedef long long int64;
typedef unsigned int uint32;
typedef unsigned long size_type;

// Five pointers and twelve numbers, each eight bytes wide, as `clisonix.kernels.cuda` packs them.
struct Product {
    const void* x;               // (batch, n)
    const void* column_scales;   // (n), or null
    const unsigned char* planes; // (PLANES, m, row_bytes)
    const void* row_scales;      // (m), or null
    void* out;                   // (batch, m)
    int64 batch, m, n, row_bytes;
    int64 step, offset;
    int64 warps_down;  // warps of a block with different rows
    int64 chunk_steps; // steps of 512 columns whose digits are in shared memory at a time
    int64 x_type, column_type, row_type, out_type;
};

enum Type { FLOAT16 = 0, BFLOAT16 = 1, FLOAT32 = 2 };

constexpr int STEP_COLUMNS = 512;
constexpr int STEP_BYTES = STEP_COLUMNS / 8;
constexpr int WARP_ROWS = 32;
constexpr int MAX_BATCH = 16;
constexpr int HEADER_BYTES = MAX_BATCH * 4 + MAX_BATCH * 8;
constexpr uint32 INFINITY_BITS = 0x7f800000u;

struct alignas(16) Words {
    uint32 word[4];
};

#ifndef CLISONIX_EMULATION

#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]

// Weights are read once: keep them out of L1, which the vectors use.
__device__ __forceinline__ Words load_streaming(const unsigned char* address) {
    Words w;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "l"(address));
    return w;
}

// sum += a (16 x 32, row major) * b (32 x 8), signed bytes, the fragments of mma.m16n8k32.
__device__ __forceinline__ void multiply_add(int (&sum)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ unsigned short float_to_bfloat(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#endif

__device__ __forceinline__ float load_float(const void* base, int64 index, int64 type) {
    if (type == FLOAT32) return static_cast<const float*>(base)[index];
    const unsigned short bits = static_cast<const unsigned short*>(base)[index];
    return type == FLOAT16 ? half_to_float(bits) : __uint_as_float(static_cast<uint32>(bits) << 16);
}

__device__ __forceinline__ void store_float(void* base, int64 index, int64 type, float value) {
    if (type == FLOAT32) {
        static_cast<float*>(base)[index] = value;
    } else {
        static_cast<unsigned short*>(base)[index] = type == FLOAT16 ? float_to_half(value) : float_to_bfloat(value);
    }
}

// Entries `index` to `index + 7`, zero from entry `valid` on; `aligned` says that a row of x is in 16-byte pieces.
__device__ __forceinline__ void load_eight(
    const void* base, int64 index, int valid, int64 type, bool aligned, float (&value)[8]) {
    if (!aligned || valid < 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] = i < valid ? load_float(base, index + i, type) : 0.0f;
    } else if (type == FLOAT32) {
        const Words* words = reinterpret_cast<const Words*>(static_cast<const float*>(base) + index);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] = __uint_as_float(words[i >> 2].word[i & 3]);
    } else {
        const Words words = *reinterpret_cast<const Words*>(static_cast<const unsigned short*>(base) + index);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint32 bits = words.word[i >> 1] >> (16 * (i & 1));
            value[i] = type == FLOAT16 ? half_to_float(static_cast<unsigned short>(bits)) : __uint_as_float(bits << 16);
        }
    }
}

// Eight entries of a vector, times their column scales.
__device__ __forceinline__ void load_scaled(
    const Product& p, int64 vector, int64 column, bool aligned, float (&value)[8]) {
    const int valid = static_cast<int>(p.n - column < 8 ? p.n - column : 8);
    load_eight(p.x, vector * p.n + column, valid, p.x_type, aligned, value);
    if (p.column_scales) {
        float scale[8];
        load_eight(p.column_scales, column, valid, p.column_type, aligned, scale);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] *= scale[i];
    }
}

__device__ __forceinline__ bool in_pieces(const void* base, int64 n, int64 type) {
    return (reinterpret_cast<size_type>(base) | static_cast<size_type>(n * (type == FLOAT32 ? 4 : 2))) % 16 == 0;
}

// The power of two that brings a vector with the largest magnitude `bits` below 2^22, as an exponent. Magnitudes below
// 2^-100 are treated as 2^-100, so that the power itself stays a normal number.
__device__ __forceinline__ int shift_of(uint32 bits) {
    const int exponent = static_cast<int>(bits >> 23) - 127;
    return 21 - (exponent < -100 ? -100 : exponent);
}

__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float(static_cast<uint32>(exponent + 127) << 23);
}

__device__ __forceinline__ int64 warp_sum(int64 value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes >>= 1) {
        const uint32 low = __shfl_xor_sync(0xffffffffu, static_cast<uint32>(value), lanes);
        const uint32 high = __shfl_xor_sync(0xffffffffu, static_cast<uint32>(value >> 32), lanes);
        value += static_cast<int64>((static_cast<unsigned long long>(high) << 32) | low);
    }
    return value;
}

// The first 16 bytes at `address`, zero from byte `valid` on.
template <int ALIGNMENT>
__device__ __forceinline__ Words load_piece(const unsigned char* address, int valid) {
    if constexpr (ALIGNMENT == 16) {
        return load_streaming(address);
    } else {
        Words w = {{0u, 0u, 0u, 0u}};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (ALIGNMENT == 4) {
                if (4 * i < valid) w.word[i] = *reinterpret_cast<const uint32*>(address + 4 * i);
            } else {
#pragma unroll
                for (int j = 4 * i; j < 4 * i + 4; ++j) {
                    if (j < valid) w.word[i] |= static_cast<uint32>(address[j]) << (8 * (j & 3));
                }
            }
        }
        return w;
    }
}

// The rows g, g + 8, g + 16, g + 24 of a warp, at the 128 columns of this lane's quarter of a step.
template <int PLANE_COUNT, int ALIGNMENT>
struct Weights {
    Words piece[PLANE_COUNT][4];

    // `row` is the first row, of which `rows_left` are inside the matrix; `offset` counts bytes along it.
    __device__ __forceinline__ void load(const Product& p, const unsigned char* row, int rows_left, int offset) {
        const int valid = static_cast<int>(p.row_bytes) - offset;
#pragma unroll
        for (int plane = 0; plane < PLANE_COUNT; ++plane) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                piece[plane][i] = {{0u, 0u, 0u, 0u}};
                if (8 * i < rows_left && valid > 0) {
                    piece[plane][i] = load_piece<ALIGNMENT>(row + offset + (plane * p.m + 8 * i) * p.row_bytes, valid);
                }
            }
        }
    }

    // Four codes, of columns k, k + 8, k + 16 and k + 24 of word `w`: as bytes, or 2^k times them if `in_place`.
    template <bool IN_PLACE>
    __device__ __forceinline__ uint32 codes(int i, int w, int k) const {
        const uint32 low = piece[0][i].word[w];
        // In place, bits 4 to 7 still move down to 0 to 3: 3 * 2^3 is a signed byte, 3 * 2^7 is not.
        const int shift = IN_PLACE ? k & 4 : k, left = IN_PLACE ? k & 3 : 0;
        uint32 four = (low >> shift) & (0x01010101u << left);
        if (PLANE_COUNT == 2) {
            const uint32 high = piece[PLANE_COUNT - 1][i].word[w];
            const uint32 moved = shift == 0 ? high << 1 : high >> (shift - 1);
            four |= moved & (0x02020202u << left);
        }
        return four;
    }
};

// The digits of the columns from `first` on, in the order in which the lanes will read them: for each step, word and
// pair of classes of bits, 16 bytes for each digit column and quad lane. A thread makes those of a word, 32 columns.
__device__ __forceinline__ void stage_digits(
    const Product& p, bool aligned, int first, int steps, const uint32* largest, int64* sums, unsigned char* digits) {
    const int columns = 3 * static_cast<int>(p.batch), lane = threadIdx.x & 31;
    for (int vector = 0; vector < p.batch; ++vector) {
        // Nothing of a vector that is not finite is used: its results are NaN.
        const float scale = largest[vector] < INFINITY_BITS ? power_of_two(shift_of(largest[vector])) : 0.0f;
        int64 total = 0;
        for (int item = threadIdx.x; item < steps * (STEP_COLUMNS / 32); item += blockDim.x) {
            Words digit[3][2] = {};
            // Not unrolled: the entries are in L1 by now, and registers are needed for the weights on their way.
#pragma unroll 1
            for (int i = 0; i < 4; ++i) {
                const int column = first + 32 * item + 8 * i;
                if (column >= p.n) break;
                float value[8];
                load_scaled(p, vector, column, aligned, value);
#pragma unroll
                for (int k = 0; k < 8; ++k) {
                    int rest = __float2int_rn(value[k] * scale);
                    total += rest;
#pragma unroll
                    for (int d = 0; d < 3; ++d) {
                        const int low = static_cast<signed char>(rest & 255);
                        // Class k & 3, the lower (k < 4) or the upper half of the operand.
                        digit[d][(k & 3) >> 1].word[2 * (k & 1) + (k >> 2)] |= static_cast<uint32>(low & 255) << (8 * i);
                        rest = (rest - low) >> 8;
                    }
                }
            }
            const int word = item & 3, quad = (item >> 2) & 3, step = item >> 4;
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
                const int block = ((step * 4 + word) * 2 + pair) * columns + 3 * vector;
#pragma unroll
                for (int d = 0; d < 3; ++d) {
                    *reinterpret_cast<Words*>(digits + ((block + d) * 4 + quad) * 16) = digit[d][pair];
                }
            }
        }
        total = warp_sum(total);
        if (lane == 0) {
            atomicAdd(
                reinterpret_cast<unsigned long long*>(sums + vector), static_cast<unsigned long long>(total));
        }
    }
}

template <int PLANE_COUNT, int TILE_COUNT, int ALIGNMENT>
__device__ __forceinline__ void packed_product_body(const Product& p, unsigned char* shared) {
    // With one tile there are registers for a sum of each class of bits, which saves a shift per four weights.
    constexpr bool IN_PLACE = TILE_COUNT == 1;
    constexpr int CLASSES = IN_PLACE ? 4 : 1;

    const int lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
    const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int down = static_cast<int>(p.warps_down), across = warps / down, slice = warp / down;
    const int block_rows = down * WARP_ROWS, block_row = (warp % down) * WARP_ROWS;
    const int64 first_row = static_cast<int64>(blockIdx.x) * block_rows;
    const int64 first_own = first_row + block_row + group;
    const int rows_left = static_cast<int>(p.m - first_own < WARP_ROWS ? p.m - first_own : WARP_ROWS);
    const unsigned char* row = p.planes + first_own * p.row_bytes;
    const int columns = 3 * static_cast<int>(p.batch), chunk_steps = static_cast<int>(p.chunk_steps);
    const int steps = static_cast<int>((p.n + STEP_COLUMNS - 1) / STEP_COLUMNS);

    const bool aligned = in_pieces(p.x, p.n, p.x_type)
                         && (!p.column_scales || in_pieces(p.column_scales, p.n, p.column_type));

    uint32* largest = reinterpret_cast<uint32*>(shared);
    int64* sums = reinterpret_cast<int64*>(shared + MAX_BATCH * 4);
    int* totals = reinterpret_cast<int*>(shared + HEADER_BYTES); // (8 * TILE_COUNT, block_rows)
    unsigned char* digits = shared + HEADER_BYTES + 4 * 8 * TILE_COUNT * block_rows;

    // The first weights travel while the vectors are being prepared.
    Weights<PLANE_COUNT, ALIGNMENT> next;
    next.load(p, row, rows_left, slice * STEP_BYTES + quad * 16);

    if (threadIdx.x < MAX_BATCH) {
        largest[threadIdx.x] = 0u;
        sums[threadIdx.x] = 0;
    }
    for (int i = threadIdx.x; i < 8 * TILE_COUNT * block_rows; i += blockDim.x) totals[i] = 0;
    __syncthreads();

    for (int vector = 0; vector < p.batch; ++vector) {
        uint32 bits = 0u;
#pragma unroll 4
        for (int column = 8 * threadIdx.x; column < p.n; column += 8 * blockDim.x) {
            float value[8];
            load_scaled(p, vector, column, aligned, value);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const uint32 magnitude = __float_as_uint(value[i]) & 0x7fffffffu;
                bits = magnitude > bits ? magnitude : bits;
            }
        }
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes >>= 1) {
            const uint32 other = __shfl_xor_sync(0xffffffffu, bits, lanes);
            bits = other > bits ? other : bits;
        }
        if (lane == 0) atomicMax(largest + vector, bits);
    }
    __syncthreads();

    int sum[CLASSES][2][TILE_COUNT][4] = {};
    for (int chunk = 0; chunk < steps; chunk += chunk_steps) {
        const int end = chunk + chunk_steps < steps ? chunk + chunk_steps : steps;
        if (chunk > 0) __syncthreads(); // the digits of the last chunk are still being read
        stage_digits(p, aligned, chunk * STEP_COLUMNS, end - chunk, largest, sums, digits);
        __syncthreads();
        if (chunk > 0) next.load(p, row, rows_left, (chunk + slice) * STEP_BYTES + quad * 16);
        for (int step = chunk + slice; step < end; step += across) {
            const Weights<PLANE_COUNT, ALIGNMENT> now = next;
            if (step + across < end) next.load(p, row, rows_left, (step + across) * STEP_BYTES + quad * 16);
#pragma unroll
            for (int w = 0; w < 4; ++w) {
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) {
                    const int block = (((step - chunk) * 4 + w) * 2 + pair) * columns;
                    Words digit[TILE_COUNT];
#pragma unroll
                    for (int tile = 0; tile < TILE_COUNT; ++tile) {
                        const int column = tile * 8 + group;
                        digit[tile] = {{0u, 0u, 0u, 0u}};
                        if (column < columns) {
                            digit[tile] = *reinterpret_cast<const Words*>(digits + ((block + column) * 4 + quad) * 16);
                        }
                    }
#pragma unroll
                    for (int odd = 0; odd < 2; ++odd) {
                        const int k = 2 * pair + odd;
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            const uint32 a[4] = {
                                now.template codes<IN_PLACE>(2 * half, w, k),
                                now.template codes<IN_PLACE>(2 * half + 1, w, k),
                                now.template codes<IN_PLACE>(2 * half, w, k + 4),
                                now.template codes<IN_PLACE>(2 * half + 1, w, k + 4)};
#pragma unroll
                            for (int tile = 0; tile < TILE_COUNT; ++tile) {
                                multiply_add(
                                    sum[IN_PLACE ? k : 0][half][tile], a, digit[tile].word[2 * odd],
                                    digit[tile].word[2 * odd + 1]);
                            }
                        }
                    }
                }
            }
        }
    }

    // Lane (group, quad) holds rows group and group + 8 of a tile at digit columns 2 * quad and 2 * quad + 1.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int tile = 0; tile < TILE_COUNT; ++tile) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int total = 0;
#pragma unroll
                for (int k = 0; k < CLASSES; ++k) total += sum[k][half][tile][i] >> k; // exact: all are multiples
                const int column = tile * 8 + 2 * quad + (i & 1);
                atomicAdd(totals + column * block_rows + block_row + 16 * half + 8 * (i >> 1) + group, total);
            }
        }
    }
    __syncthreads();

    for (int i = threadIdx.x; i < block_rows * static_cast<int>(p.batch); i += blockDim.x) {
        const int vector = i / block_rows, r = i % block_rows;
        if (first_row + r >= p.m) continue;
        const int* digit = totals + 3 * vector * block_rows + r;
        const int64 codes = digit[0] + 256 * static_cast<int64>(digit[block_rows])
                            + 65536 * static_cast<int64>(digit[2 * block_rows]);
        const int64 levels = p.step * codes - p.offset * sums[vector];
        const uint32 bits = largest[vector];
        float value = static_cast<float>(static_cast<double>(levels) * power_of_two(-shift_of(bits)));
        if (p.row_scales) value *= load_float(p.row_scales, first_row + r, p.row_type);
        if (bits >= INFINITY_BITS) value = __uint_as_float(0x7fffffffu);
        store_float(p.out, vector * p.m + first_row + r, p.out_type, value);
    }
}

#ifndef CLISONIX_EMULATION
extern "C" __global__ void __launch_bounds__(THREADS, 1) packed_product(const Product p) {
    SHARED_BYTES(shared);
    packed_product_body<PLANES, TILES, ALIGN>(p, shared);
}
#endif
