#pragma once

// Q4_K weights in llama.cpp's layout of eight rows, times several rows of activations at once, on x86 with AVX2
// (docs/adr/0030).
//
// ggml_gemv_q4_K_8x8_q8_K in arch/x86/repack.cpp takes one row of activations and spends more than half of its time on
// unpacking weights. Here up to four rows share that. Within a block all sums are of integers, and what a block adds to
// a row's sum is computed as there, in the same order: a row has the bits of ggml_gemv_q4_K_8x8_q8_K.

#include "byte_products.h"
#include "ggml-common.h"
#include "ggml-cpu-impl.h"
#include "repack.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#    define HAS_Q4_K_ROWS

// The order of rows in which the products of a sub-block come: 0, 4, 1, 5, 2, 6, 3, 7.
static inline __m256i q4_k_scales_of_products(__m128i scales) {
    return _mm256_cvtepu8_epi32(_mm_shuffle_epi8(scales, _mm_set_epi64x(0, 0x0703060205010400)));
}

// The weights of one sub-block of eight rows, one nibble of each byte at `raw`, four of every row in each quad.
static inline void q4_k_unpack(const __m256i raw[8], int shift, __m256i quads[8]) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < 4; ++i) {
        const __m256i rows_0123 = _mm256_and_si256(_mm256_srli_epi16(raw[2 * i], shift), low);
        const __m256i rows_4567 = _mm256_and_si256(_mm256_srli_epi16(raw[2 * i + 1], shift), low);
        quads[2 * i]     = _mm256_blend_epi32(rows_0123, _mm256_shuffle_epi32(rows_4567, 177), 170);
        quads[2 * i + 1] = _mm256_blend_epi32(_mm256_shuffle_epi32(rows_0123, 177), rows_4567, 170);
    }
}

// Scaled products of one sub-block of eight rows with 32 activations.
static inline __m256i q4_k_products(const __m256i quads[8], const int8_t * activations, __m256i scales) {
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < 8; ++i) {
        int four;
        memcpy(&four, activations + 4 * i, sizeof(four));
        sum = byte_product_sums(sum, quads[i], _mm256_set1_epi32(four));
    }
    return scaled_byte_product_sums(sum, scales);
}

// s[c * bs + r] = row r of eight rows of weights times row c of COLUMNS rows of activations, which are `blocks` apart.
template <int COLUMNS>
static inline void q4_k_rows(int blocks, float * s, size_t bs, const block_q4_Kx8 * w, const block_q8_K * y) {
    __m256 sums[COLUMNS], minima[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) {
        sums[c] = minima[c] = _mm256_setzero_ps();
    }
    for (int b = 0; b < blocks; ++b) {
        __m256i products[COLUMNS], least[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            products[c] = least[c] = _mm256_setzero_si256();
        }
        for (int half = 0; half < QK_K / 64; ++half) { // two sub-blocks share their bytes
            __m256i raw[8], quads[8];
            for (int i = 0; i < 8; ++i) {
                raw[i] = _mm256_loadu_si256((const __m256i *) (w[b].qs + 256 * half + 32 * i));
            }
            const __m128i first = k_quant_scales(w[b].scales + 24 * half), second = k_quant_scales(w[b].scales + 24 * half + 12);
            const __m256i mins  = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(first, second));
            for (int nibble = 0; nibble < 2; ++nibble) {
                q4_k_unpack(raw, 4 * nibble, quads);
                const __m256i scales = q4_k_scales_of_products(nibble ? second : first);
                for (int c = 0; c < COLUMNS; ++c) {
                    const int8_t * a = y[c * blocks + b].qs + 64 * half + 32 * nibble;
                    products[c]      = _mm256_add_epi32(products[c], q4_k_products(quads, a, scales));
                }
            }
            for (int c = 0; c < COLUMNS; ++c) {
                const int16_t * of_16 = y[c * blocks + b].bsums + 4 * half; // sums of 16 activations each
                const uint32_t  lower = (uint16_t) (of_16[0] + of_16[1]), upper = (uint16_t) (of_16[2] + of_16[3]);
                const __m256i   both  = _mm256_set1_epi32((int) (lower | upper << 16));
                least[c]              = _mm256_add_epi32(least[c], _mm256_madd_epi16(both, mins));
            }
        }
        const __m128i order = _mm_set_epi8(15, 14, 7, 6, 13, 12, 5, 4, 11, 10, 3, 2, 9, 8, 1, 0); // of the products
        const __m256  d     = _mm256_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *) w[b].d), order));
        const __m256  m     = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) w[b].dmin));
        for (int c = 0; c < COLUMNS; ++c) {
            const __m256 scale = _mm256_set1_ps(y[c * blocks + b].d);
            sums[c]   = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[c]), _mm256_mul_ps(d, scale), sums[c]);
            minima[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(least[c]), _mm256_mul_ps(m, scale), minima[c]);
        }
    }
    const __m256i in_order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    for (int c = 0; c < COLUMNS; ++c) {
        _mm256_storeu_ps(s + c * bs, _mm256_sub_ps(_mm256_permutevar8x32_ps(sums[c], in_order), minima[c]));
    }
}

// s[c * bs + r] = row r of nc rows of weights, a multiple of eight, times row c of nr rows of activations, of n numbers
// each.
static void q4_k_rows_multiply(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc) {
    const int    blocks = n / QK_K;
    const auto * w      = static_cast<const block_q4_Kx8 *>(vx);
    const auto * y      = static_cast<const block_q8_K *>(vy);
    for (int r = 0; r < nc; r += 8, w += blocks) {
        int c = 0;
        for (; c + 4 <= nr; c += 4) {
            q4_k_rows<4>(blocks, s + c * bs + r, bs, w, y + c * blocks);
        }
        for (; c + 2 <= nr; c += 2) {
            q4_k_rows<2>(blocks, s + c * bs + r, bs, w, y + c * blocks);
        }
        if (c < nr) {
            q4_k_rows<1>(blocks, s + c * bs + r, bs, w, y + c * blocks);
        }
    }
}

#endif
