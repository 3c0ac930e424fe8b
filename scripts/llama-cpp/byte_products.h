#pragma once

// Products of bytes on x86 with AVX2, for four_rows.h and eight_rows.h.

#if defined(__AVX2__)

#include <immintrin.h>

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

#endif
