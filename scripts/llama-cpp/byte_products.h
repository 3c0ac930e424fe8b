#pragma once

// Products of bytes, and scales of K-quants, on x86 with AVX2, for the kernels beside this file.

#if defined(__AVX2__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

// Eight sums of four products each, of numbers without a sign, at most 128, and numbers of -127 to 127. Two such
// products fit into 16 bits, so both ways are exact.
static inline __m256 byte_products(const __m256i magnitudes, const __m256i numbers) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, numbers));
#else
    const __m256i pairs = _mm256_maddubs_epi16(magnitudes, numbers);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_set1_epi16(1), pairs));
#endif
}

// The sum of eight lanes, added like hsum_float_8 in arch/x86/quants.c.
static inline float sum_of_lanes(const __m256 x) {
    __m128 sum = _mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// The scales and minima of Q4_K and Q5_K, 6 bits each and eight of both: bytes 0 to 7 are scales, 8 to 15 minima.
static inline __m128i k_quant_scales(const uint8_t * packed) {
    uint32_t words[3];
    memcpy(words, packed, sizeof(words));
    const uint32_t low6 = 0x3f3f3f3f, low4 = 0x0f0f0f0f, low2 = 0x03030303;
    const uint32_t scales_above = (words[2] & low4) | (((words[0] >> 6) & low2) << 4);
    const uint32_t minima_above = ((words[2] >> 4) & low4) | (((words[1] >> 6) & low2) << 4);
    return _mm_set_epi32((int) minima_above, (int) (words[1] & low6), (int) scales_above, (int) (words[0] & low6));
}

// `sums` and the products of numbers of 0 to 15 and of -127 to 127, to be brought to 32 bits by
// scaled_byte_product_sums: up to eight times two such products fit into 16 bits.
static inline __m256i byte_product_sums(const __m256i sums, const __m256i magnitudes, const __m256i numbers) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(sums, magnitudes, numbers);
#else
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(magnitudes, numbers));
#endif
}

// Eight sums times `scales`, numbers below 64 in 32 bits each.
static inline __m256i scaled_byte_product_sums(const __m256i sums, const __m256i scales) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_mullo_epi32(sums, scales);
#else
    return _mm256_madd_epi16(sums, _mm256_or_si256(scales, _mm256_slli_epi32(scales, 16)));
#endif
}

#endif
