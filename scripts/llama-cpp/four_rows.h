#pragma once

// Four rows of Q4_1 weights times one or two rows of activations (Q8_1) at once, on x86 with AVX2 (docs/adr/0025).
//
// llama.cpp takes rows of weights one by one: each sum waits for itself at every block, and the scales of the
// activations are converted anew for every row. Four sums do not wait for each other. Each adds the same numbers in the
// same order as ggml_vec_dot_q4_1_q8_1 in arch/x86/quants.c, so its bits are the same.

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define HAS_FOUR_ROWS
#define FOUR_ROWS_INLINE static inline __attribute__((always_inline))

// The sum of eight lanes, added like hsum_float_8 in arch/x86/quants.c.
FOUR_ROWS_INLINE float four_rows_sum(const __m256 x) {
    __m128 sum = _mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// 16 bytes as 32 numbers of 4 bits: the lower halves of all bytes, then the upper halves.
FOUR_ROWS_INLINE __m256i four_rows_nibbles(const uint8_t * packed) {
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) packed));
    return _mm256_and_si256(_mm256_set1_epi8(15), _mm256_srlv_epi64(twice, _mm256_set_epi64x(4, 4, 0, 0)));
}

// Eight sums of four products each. Whole numbers: 15 * 127 * 2 fits into 16 bits, so both ways are exact.
FOUR_ROWS_INLINE __m256 four_rows_products(const __m256i nibbles, const __m256i activations) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(_mm256_setzero_si256(), nibbles, activations));
#else
    const __m256i pairs = _mm256_maddubs_epi16(nibbles, activations);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_set1_epi16(1), pairs));
#endif
}

// s[c * ds + r] = row r of the weights at x, of bx bytes each, times row c of the activations at y, of by bytes each,
// for four rows of weights of n numbers, and `columns` (1 or 2) of activations.
FOUR_ROWS_INLINE void four_rows(
        int n, float * s, size_t ds, const char * x, size_t bx, const char * y, size_t by, const int columns) {
    const __m256i scale_lane[4] = {
        _mm256_set1_epi32(0), _mm256_set1_epi32(2), _mm256_set1_epi32(4), _mm256_set1_epi32(6),
    };
    __m256 products[2][4]; // scaled sums of products
    __m256 minima[2];      // sums of minima times sums of activations, in the odd lanes; the even ones mean nothing
    for (int c = 0; c < columns; ++c) {
        minima[c] = products[c][0] = products[c][1] = products[c][2] = products[c][3] = _mm256_setzero_ps();
    }
    for (int b = 0; b < n / QK4_1; ++b) {
        const block_q4_1 * w[4];
        int scale_and_minimum[4];
        for (int r = 0; r < 4; ++r) {
            w[r] = (const block_q4_1 *) (x + r * bx) + b;
            memcpy(&scale_and_minimum[r], w[r], sizeof(int));
        }
        // The processor does not foresee four streams. The four rows after these are next to them.
        const char * next = x + 4 * bx + b * 4 * sizeof(block_q4_1);
        _mm_prefetch(next, _MM_HINT_T0);
        _mm_prefetch(next + 64, _MM_HINT_T0);
        const __m256 scales_and_minima = _mm256_cvtph_ps(
            _mm_set_epi32(scale_and_minimum[3], scale_and_minimum[2], scale_and_minimum[1], scale_and_minimum[0]));
        for (int c = 0; c < columns; ++c) {
            const block_q8_1 * a = (const block_q8_1 *) (y + c * by) + b;
            const __m256i activations = _mm256_loadu_si256((const __m256i *) a->qs);
            const __m256 scales = _mm256_mul_ps(scales_and_minima, _mm256_set1_ps(GGML_CPU_FP16_TO_FP32(a->d)));
            minima[c] = _mm256_fmadd_ps(scales_and_minima, _mm256_set1_ps(GGML_CPU_FP16_TO_FP32(a->s)), minima[c]);
            for (int r = 0; r < 4; ++r) {
                products[c][r] = _mm256_fmadd_ps(
                    _mm256_permutevar8x32_ps(scales, scale_lane[r]),
                    four_rows_products(four_rows_nibbles(w[r]->qs), activations), products[c][r]);
            }
        }
    }
    for (int c = 0; c < columns; ++c) {
        float lanes[8];
        _mm256_storeu_ps(lanes, minima[c]);
        for (int r = 0; r < 4; ++r) {
            s[c * ds + r] = four_rows_sum(products[c][r]) + lanes[2 * r + 1];
        }
    }
}

// Rows [row, row_end) of the weights at x times rows [column, column_end) of the activations at y, n numbers each. The
// distances of two rows are bx and by in bytes, and ds in numbers of the result s.
static inline void four_rows_chunk(
        ggml_vec_dot_t vec_dot, int n, float * s, size_t ds, const char * x, size_t bx, const char * y, size_t by,
        int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    for (; row + 4 <= row_end; row += 4) {
        int64_t c = column;
        for (; c + 2 <= column_end; c += 2) {
            four_rows(n, s + c * ds + row, ds, x + row * bx, bx, y + c * by, by, 2);
        }
        if (c < column_end) {
            four_rows(n, s + c * ds + row, ds, x + row * bx, bx, y + c * by, by, 1);
        }
    }
    for (; row < row_end; ++row) {
        for (int64_t c = column; c < column_end; ++c) {
            vec_dot(n, s + c * ds + row, 0, x + row * bx, 0, y + c * by, 0, 1);
        }
    }
}

#endif
