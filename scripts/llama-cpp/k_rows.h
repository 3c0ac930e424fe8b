#pragma once

// Q5_K and Q6_K weights times several rows of activations at once, on x86 with AVX2 (docs/adr/0030).
//
// ggml_vec_dot_q5_K_q8_K and ggml_vec_dot_q6_K_q8_K in arch/x86/quants.c unpack a row of weights anew for every row of
// activations. Here up to four share that. Sums within a block are of integers, and what a block adds to a row's sum is
// computed as there, in the same order: a row has the same bits.

#include "byte_products.h"
#include "common.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define HAS_K_ROWS
#define K_ROWS_INLINE static inline __attribute__((always_inline))

// 64 weights of 5 bits as bytes, 32 in each of two registers.
K_ROWS_INLINE void q5_k_unpack(const block_q5_K * w, int quarter, __m256i weights[2]) {
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);
    const __m256i both = _mm256_loadu_si256((const __m256i *) (w->qs + 32 * quarter));
    const __m256i high = _mm256_srli_epi16(_mm256_loadu_si256((const __m256i *) w->qh), 2 * quarter);
    weights[0] = _mm256_or_si256(_mm256_and_si256(both, low), _mm256_and_si256(_mm256_slli_epi16(high, 4), fifth));
    weights[1] = _mm256_or_si256(
        _mm256_and_si256(_mm256_srli_epi16(both, 4), low), _mm256_and_si256(_mm256_slli_epi16(high, 3), fifth));
}

// What the minima of a block take from its products with one row of activations.
K_ROWS_INLINE int q5_k_surplus(const block_q8_K * a, const __m128i minima) {
    const __m256i of_16 = _mm256_loadu_si256((const __m256i *) a->bsums);
    const __m128i of_32 = _mm_hadd_epi16(_mm256_castsi256_si128(of_16), _mm256_extracti128_si256(of_16, 1));
    const __m128i four = _mm_madd_epi16(minima, of_32);
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 78));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 177)));
}

// s[c * ds] = the row of n weights at x times row c of `columns` (1, 2 or 4) rows of activations at y, by bytes apart.
K_ROWS_INLINE void q5_k_row(int n, float * s, size_t ds, const char * x, const char * y, size_t by, const int columns) {
    __m256 sums[4];
    float minima[4];
    for (int c = 0; c < columns; ++c) {
        sums[c] = _mm256_setzero_ps();
        minima[c] = 0;
    }
    for (int b = 0; b < n / QK_K; ++b) {
        const block_q5_K * w = (const block_q5_K *) x + b;
        const __m128i scales_and_minima = k_quant_scales(w->scales);
        const __m256i scales = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(scales_and_minima));
        const __m128i least = _mm_cvtepu8_epi16(_mm_unpackhi_epi64(scales_and_minima, scales_and_minima));
        __m256i products[4];
        for (int c = 0; c < columns; ++c) {
            products[c] = _mm256_setzero_si256();
        }
        for (int i = 0; i < 8; i += 2) {
            __m256i weights[2];
            q5_k_unpack(w, i / 2, weights);
            for (int j = 0; j < 2; ++j) {
                const __m256i scale = _mm256_shuffle_epi8(scales, _mm256_set1_epi16((short) (2 * (i + j) * 257 + 256)));
                for (int c = 0; c < columns; ++c) {
                    const block_q8_K * a = (const block_q8_K *) (y + c * by) + b;
                    const __m256i numbers = _mm256_loadu_si256((const __m256i *) (a->qs + 32 * (i + j)));
                    const __m256i pairs = _mm256_maddubs_epi16(weights[j], numbers);
                    products[c] = _mm256_add_epi32(products[c], _mm256_madd_epi16(scale, pairs));
                }
            }
        }
        const float d = GGML_CPU_FP16_TO_FP32(w->d), dmin = GGML_CPU_FP16_TO_FP32(w->dmin);
        for (int c = 0; c < columns; ++c) {
            const block_q8_K * a = (const block_q8_K *) (y + c * by) + b;
            minima[c] = _mm_cvtss_f32(_mm_fmadd_ss(
                _mm_set_ss(-a->d * dmin), _mm_set_ss((float) q5_k_surplus(a, least)), _mm_set_ss(minima[c])));
            sums[c] = _mm256_fmadd_ps(_mm256_set1_ps(a->d * d), _mm256_cvtepi32_ps(products[c]), sums[c]);
        }
    }
    for (int c = 0; c < columns; ++c) {
        s[c * ds] = sum_of_lanes(sums[c]) + minima[c];
    }
}

// 128 weights of 6 bits as bytes, 32 in each of four registers.
K_ROWS_INLINE void q6_k_unpack(const block_q6_K * w, int half, __m256i weights[4]) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i first = _mm256_loadu_si256((const __m256i *) (w->ql + 64 * half));
    const __m256i second = _mm256_loadu_si256((const __m256i *) (w->ql + 64 * half + 32));
    const __m256i high = _mm256_loadu_si256((const __m256i *) (w->qh + 32 * half));
    weights[0] = _mm256_and_si256(first, low);
    weights[1] = _mm256_and_si256(second, low);
    weights[2] = _mm256_and_si256(_mm256_srli_epi16(first, 4), low);
    weights[3] = _mm256_and_si256(_mm256_srli_epi16(second, 4), low);
    weights[0] = _mm256_or_si256(weights[0], _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
    weights[1] = _mm256_or_si256(weights[1], _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(12)), 2));
    weights[2] = _mm256_or_si256(weights[2], _mm256_and_si256(high, _mm256_set1_epi8(48)));
    weights[3] = _mm256_or_si256(weights[3], _mm256_srli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(-64)), 2));
}

// The scales of sub-blocks 2 i and 2 i + 1, eight times 16 bits each.
K_ROWS_INLINE __m256i q6_k_scales(const __m128i scales, int i) {
    const __m128i which = _mm_add_epi8(_mm_set1_epi8((char) (2 * i)), _mm_set_epi64x(0x0101010101010101, 0));
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, which));
}

// As q5_k_row.
K_ROWS_INLINE void q6_k_row(int n, float * s, size_t ds, const char * x, const char * y, size_t by, const int columns) {
    __m256 sums[4];
    for (int c = 0; c < columns; ++c) {
        sums[c] = _mm256_setzero_ps();
    }
    for (int b = 0; b < n / QK_K; ++b) {
        const block_q6_K * w = (const block_q6_K *) x + b;
        const __m128i scales = _mm_loadu_si128((const __m128i *) w->scales);
        const __m256i scales_16 = _mm256_cvtepi8_epi16(scales);
        __m256i products[4];
        for (int c = 0; c < columns; ++c) {
            products[c] = _mm256_setzero_si256();
        }
        for (int half = 0; half < 2; ++half) {
            __m256i weights[4];
            q6_k_unpack(w, half, weights);
            for (int i = 0; i < 4; ++i) {
                const __m256i scale = q6_k_scales(scales, 4 * half + i);
                for (int c = 0; c < columns; ++c) {
                    const block_q8_K * a = (const block_q8_K *) (y + c * by) + b;
                    const __m256i numbers = _mm256_loadu_si256((const __m256i *) (a->qs + 128 * half + 32 * i));
                    const __m256i pairs = _mm256_maddubs_epi16(weights[i], numbers);
                    products[c] = _mm256_add_epi32(products[c], _mm256_madd_epi16(scale, pairs));
                }
            }
        }
        const float d = GGML_CPU_FP16_TO_FP32(w->d);
        for (int c = 0; c < columns; ++c) { // weights are stored 32 too large
            const block_q8_K * a = (const block_q8_K *) (y + c * by) + b;
            const __m256i of_16 = _mm256_loadu_si256((const __m256i *) a->bsums);
            const __m256i surplus = _mm256_slli_epi32(_mm256_madd_epi16(of_16, scales_16), 5);
            const __m256 exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(products[c], surplus));
            sums[c] = _mm256_fmadd_ps(_mm256_set1_ps(a->d * d), exact, sums[c]);
        }
    }
    for (int c = 0; c < columns; ++c) {
        s[c * ds] = sum_of_lanes(sums[c]);
    }
}

#define K_ROWS_CHUNK(multiply)                                              \
    for (; row < row_end; ++row) {                                          \
        const char * w = x + row * bx;                                      \
        int64_t c = column;                                                 \
        for (; c + 4 <= column_end; c += 4) {                               \
            multiply(n, s + c * ds + row, ds, w, y + c * by, by, 4);        \
        }                                                                   \
        for (; c + 2 <= column_end; c += 2) {                               \
            multiply(n, s + c * ds + row, ds, w, y + c * by, by, 2);        \
        }                                                                   \
        if (c < column_end) {                                               \
            multiply(n, s + c * ds + row, ds, w, y + c * by, by, 1);        \
        }                                                                   \
    }

// Rows [row, row_end) of the weights at x, of `type`, times rows [column, column_end) of the activations at y, n numbers
// each. The distances of two rows are bx and by in bytes, and ds in numbers of the result s.
static inline void k_rows_chunk(
        enum ggml_type type, int n, float * s, size_t ds, const char * x, size_t bx, const char * y, size_t by,
        int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    if (type == GGML_TYPE_Q5_K) {
        K_ROWS_CHUNK(q5_k_row)
    } else {
        K_ROWS_CHUNK(q6_k_row)
    }
}

#endif
