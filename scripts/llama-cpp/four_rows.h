#pragma once

// Four rows of Q8_0 weights times one or two rows of activations at once, on x86 with AVX2 (docs/adr/0026).
//
// llama.cpp takes rows of weights one by one: each sum waits for itself at every block, and scales are looked up in a
// table of 256 kB. Four sums do not wait for each other. Each adds the same numbers in the same order as
// ggml_vec_dot_q8_0_q8_0 in arch/x86/quants.c, so its bits are the same.

#include "byte_products.h"
#include "common.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <stdint.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define HAS_FOUR_ROWS
#define FOUR_ROWS_INLINE static inline __attribute__((always_inline))
#define FOUR_ROWS_AHEAD 6144 // bytes read ahead: the processor does not foresee four streams by itself

// The four blocks that follow one another in memory FOUR_ROWS_AHEAD bytes after the blocks b of the rows at x.
FOUR_ROWS_INLINE void four_rows_prefetch(const char * x, int b) {
    const char * next = x + FOUR_ROWS_AHEAD + b * 4 * sizeof(block_q8_0);
    for (size_t offset = 0; offset < 4 * sizeof(block_q8_0); offset += 64) {
        _mm_prefetch(next + offset, _MM_HINT_T0);
    }
}

// s[c * ds + r] = row r of the weights at x, of bx bytes each, times row c of the activations at y, of by bytes each,
// for four rows of weights of n numbers, and `columns` (1 or 2) of activations.
FOUR_ROWS_INLINE void four_rows(
        int n, float * s, size_t ds, const char * x, size_t bx, const char * y, size_t by, const int columns) {
    __m256 sums[2][4];
    for (int c = 0; c < columns; ++c) {
        sums[c][0] = sums[c][1] = sums[c][2] = sums[c][3] = _mm256_setzero_ps();
    }
    for (int b = 0; b < n / QK8_0; ++b) {
        four_rows_prefetch(x, b);
        for (int r = 0; r < 4; ++r) {
            const block_q8_0 * w = (const block_q8_0 *) (x + r * bx) + b;
            const __m256i weights = _mm256_loadu_si256((const __m256i *) w->qs);
            const __m256i magnitudes = _mm256_sign_epi8(weights, weights);
            for (int c = 0; c < columns; ++c) {
                const block_q8_0 * a = (const block_q8_0 *) (y + c * by) + b;
                const __m256i activations = _mm256_sign_epi8(_mm256_loadu_si256((const __m256i *) a->qs), weights);
                const __m256 scale = _mm256_set1_ps(_cvtsh_ss(w->d) * _cvtsh_ss(a->d));
                sums[c][r] = _mm256_fmadd_ps(scale, byte_products(magnitudes, activations), sums[c][r]);
            }
        }
    }
    for (int c = 0; c < columns; ++c) {
        for (int r = 0; r < 4; ++r) {
            s[c * ds + r] = sum_of_lanes(sums[c][r]);
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
