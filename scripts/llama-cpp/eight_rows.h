#pragma once

// Q4_1 weights stored and multiplied eight rows at a time, on x86 with AVX2 (docs/adr/0026).
//
// ggml_vec_dot_q4_1_q8_1 in arch/x86/quants.c keeps eight sums for one row of weights, a lane each, and adds them up
// at the row's end. Here a lane is a row, and there are eight registers of sums: what each adds, and in which order, is
// the same, so the bits are too. But scales come eight at a time, and nothing is moved between lanes.

#include "byte_products.h"
#include "ggml-common.h"
#include "ggml-cpu-impl.h"
#include "ggml-quants.h"
#include "ggml.h"
#include "quants.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#    define HAS_EIGHT_ROWS

// A block of 32 numbers of each of eight rows. Byte 4 r + i of quads[j] is byte 4 j + i of row r.
struct block_q4_1x8 {
    ggml_half d[8];
    ggml_half m[8];
    uint8_t   quads[4][32];
};

static_assert(sizeof(block_q4_1x8) == 8 * sizeof(block_q4_1), "a tensor must keep its size");

// Lays the weights of `t` out anew; `data` holds them as llama.cpp stores them. Returns 0.
static int eight_rows_store(ggml_tensor * t, const void * data) {
    const int     blocks = t->ne[0] / QK4_1;
    const auto *  rows   = static_cast<const block_q4_1 *>(data);
    auto *        eight  = static_cast<block_q4_1x8 *>(t->data);
    for (int64_t row = 0; row < ggml_nrows(t); row += 8, rows += 8 * blocks) {
        for (int b = 0; b < blocks; ++b, ++eight) {
            for (int r = 0; r < 8; ++r) {
                const block_q4_1 & block = rows[r * blocks + b];
                eight->d[r] = block.data.data.d;
                eight->m[r] = block.data.data.m;
                for (int j = 0; j < 4; ++j) {
                    memcpy(&eight->quads[j][4 * r], &block.qs[4 * j], 4);
                }
            }
        }
    }
    return 0;
}

// Of each of eight rows the sum of four products: its four weights times the same four activations.
static inline __m256 eight_rows_products(__m256i weights, const int8_t * activations) {
    int four;
    memcpy(&four, activations, sizeof(four));
    return byte_products(weights, _mm256_set1_epi32(four));
}

// s[c * bs + r] = row r of eight rows of weights times row c of COLUMNS rows of activations, which are `blocks` apart.
template <int COLUMNS>
static inline void eight_rows(int blocks, float * s, size_t bs, const block_q4_1x8 * w, const block_q8_1 * y) {
    const __m256i lower_half = _mm256_set1_epi8(15);
    __m256        sums[COLUMNS][8]; // of the lanes of ggml_vec_dot_q4_1_q8_1
    __m256        minima[COLUMNS];  // minima times sums of activations
    for (int c = 0; c < COLUMNS; ++c) {
        minima[c] = _mm256_setzero_ps();
        for (int lane = 0; lane < 8; ++lane) {
            sums[c][lane] = _mm256_setzero_ps();
        }
    }
    for (int b = 0; b < blocks; ++b) {
        const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) w[b].d));
        const __m256 m = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) w[b].m));
        __m256       scales[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            const block_q8_1 & a = y[c * blocks + b];
            scales[c]            = _mm256_mul_ps(d, _mm256_set1_ps(_cvtsh_ss(a.data.data.d)));
            minima[c]            = _mm256_fmadd_ps(m, _mm256_set1_ps(_cvtsh_ss(a.data.data.s)), minima[c]);
        }
        for (int j = 0; j < 4; ++j) {
            const __m256i both  = _mm256_loadu_si256((const __m256i *) w[b].quads[j]);
            const __m256i lower = _mm256_and_si256(both, lower_half);
            const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(both, 4), lower_half);
            for (int c = 0; c < COLUMNS; ++c) {
                const int8_t * a = y[c * blocks + b].qs + 4 * j;
                sums[c][j]       = _mm256_fmadd_ps(scales[c], eight_rows_products(lower, a), sums[c][j]);
                sums[c][4 + j]   = _mm256_fmadd_ps(scales[c], eight_rows_products(upper, a + 16), sums[c][4 + j]);
            }
        }
    }
    for (int c = 0; c < COLUMNS; ++c) { // in the order of hsum_float_8
        const __m256 * l    = sums[c];
        const __m256   even = _mm256_add_ps(_mm256_add_ps(l[0], l[4]), _mm256_add_ps(l[2], l[6]));
        const __m256   odd  = _mm256_add_ps(_mm256_add_ps(l[1], l[5]), _mm256_add_ps(l[3], l[7]));
        _mm256_storeu_ps(s + c * bs, _mm256_add_ps(_mm256_add_ps(even, odd), minima[c]));
    }
}

// s[c * bs + r] = row r of nc rows of weights, a multiple of eight, times row c of nr rows of activations, of n numbers
// each.
static void eight_rows_multiply(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc) {
    const int    blocks = n / QK4_1;
    const auto * w      = static_cast<const block_q4_1x8 *>(vx);
    const auto * y      = static_cast<const block_q8_1 *>(vy);
    for (int r = 0; r < nc; r += 8, w += blocks) {
        int c = 0;
        for (; c + 2 <= nr; c += 2) {
            eight_rows<2>(blocks, s + c * bs + r, bs, w, y + c * blocks);
        }
        if (c < nr) {
            eight_rows<1>(blocks, s + c * bs + r, bs, w, y + c * blocks);
        }
    }
}

// Rows of activations stay as they are: one after the other.
template <>
void ggml_quantize_mat_t<4, GGML_TYPE_Q8_1>(
    const float * GGML_RESTRICT x, void * GGML_RESTRICT vy, int64_t nrow, int64_t n_per_row) {
    quantize_row_q8_1(x, vy, nrow * n_per_row);
}

#endif
