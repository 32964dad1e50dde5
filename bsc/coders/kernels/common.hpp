// What the sources of the CPU kernels share.

#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace {

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// What runs a function on so many threads of the OpenMP library that torch has loaded; null where it is of another kind. Torch's
// threads wait actively for a while after each operation: threads of our own would have to share the processors with them. As with
// torch's own operations, a child that is forked afterwards cannot compute.
using Region = void (*)(void (*)(void*), void*, unsigned, unsigned);
inline Region torch_threads() {
    static const Region found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

// Run body(first, last) over pieces of [0, count) of `grain`, handed to whichever thread is free. All of torch's threads are called,
// also where there are fewer pieces: OpenMP ends those that a region has no place for, and starts them anew for the next.
template <class Body>
void in_parallel(int64_t count, int64_t grain, int64_t threads, const Body& body) {
    std::atomic<int64_t> next{0};
    auto work = [&] {
        for (int64_t first; (first = next.fetch_add(grain)) < count;) body(first, std::min(count, first + grain));
    };
    const int64_t pieces = (count + grain - 1) / grain;
    if (threads > 1 && pieces > 1 && torch_threads()) {
        torch_threads()([](void* data) { (*static_cast<decltype(work)*>(data))(); }, &work, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> pool;
    for (int64_t helper = 1; helper < std::min(threads, pieces); ++helper) pool.emplace_back(work);
    work();
    for (auto& thread : pool) thread.join();
}

// Integers in the order of the floats; -0 and 0 are one, and NaN of either sign is above infinity.
inline int32_t sortable(float value) {
    int32_t bits = bits_of<int32_t>(value + 0.0f);
    bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;  // a comparison of floats here would keep loops from being vectorised
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The products of `count` rows with a: of each row in four sums beside each other, as one has to wait for itself.
template <int count>
inline void multiply(const float* a, const float* const* rows, int64_t width, float* products) {
    typedef float Sixteen __attribute__((vector_size(64)));
    Sixteen sums[count][4] = {}, left, right;
    int64_t j = 0;
    for (; j + 64 <= width; j += 64)
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) {
            std::memcpy(&left, a + j + 16 * part, sizeof left);
#pragma GCC unroll 4
            for (int row = 0; row < count; ++row) {
                std::memcpy(&right, rows[row] + j + 16 * part, sizeof right);
                sums[row][part] += left * right;
            }
        }
    for (int row = 0; row < count; ++row) {
        const Sixteen all = (sums[row][0] + sums[row][1]) + (sums[row][2] + sums[row][3]);
        float lanes[16];
        std::memcpy(lanes, &all, sizeof lanes);
#pragma GCC unroll 4
        for (int half = 8; half; half /= 2)
#pragma omp simd
            for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        for (int64_t rest = j; rest < width; ++rest) lanes[0] += a[rest] * rows[row][rest];
        products[row] = lanes[0];
    }
}

inline float inner_product(const float* a, const float* b, int64_t width) {
    float product;
    multiply<1>(a, &b, width, &product);
    return product;
}

template <int count>
inline void add(float* __restrict__ total, const float* const* rows, const float* weights, int64_t width) {
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
        float sum = total[j];
#pragma GCC unroll 4
        for (int row = 0; row < count; ++row) sum += weights[row] * rows[row][j];
        total[j] = sum;
    }
}

inline void add_scaled(float* total, const float* row, float weight, int64_t width) { add<1>(total, &row, &weight, width); }

// Rows that lie anywhere are read four beside each other: more of them are on their way at a time, and what they meet is loaded once.
constexpr int AT_ONCE = 4;

// store(i, ⟨a, row(i)⟩) for each i < count.
template <class Row, class Store>
inline void multiply_rows(const float* a, int64_t count, int64_t width, const Row& row, const Store& store) {
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE) {
        const float* const rows[AT_ONCE] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
        float products[AT_ONCE];
        multiply<AT_ONCE>(a, rows, width, products);
        for (int one = 0; one < AT_ONCE; ++one) store(i + one, products[one]);
    }
    for (; i < count; ++i) store(i, inner_product(a, row(i), width));
}

// total += Σ weight(i) row(i) over i < count, in their order.
template <class Row, class Weight>
inline void add_rows(float* total, int64_t count, int64_t width, const Row& row, const Weight& weight) {
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE) {
        const float* const rows[AT_ONCE] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
        const float weights[AT_ONCE] = {weight(i), weight(i + 1), weight(i + 2), weight(i + 3)};
        add<AT_ONCE>(total, rows, weights, width);
    }
    for (; i < count; ++i) add_scaled(total, row(i), weight(i), width);
}

// A piece's mean first, then squares about it while the piece is in the cache still, less what that mean is off by: about a number
// far from the mean float32 loses what is small beside it. Pieces are put together in their order (Chan et al. 1983).
inline void moments(const float* x, int64_t tokens, int64_t width, int64_t threads, float* mean, float* squares) {
    constexpr int64_t PIECE = 128;
    const int64_t pieces = (tokens + PIECE - 1) / PIECE;
    std::vector<float> means(pieces * width), off(pieces * width), around(pieces * width);
    in_parallel(tokens, PIECE, threads, [&](int64_t first, int64_t last) {
        const int64_t at = first / PIECE * width;
        float *middle = &means[at], *rest = &off[at], *square = &around[at];
        for (int64_t token = first; token < last; ++token) add_scaled(middle, x + token * width, 1.0f, width);
        for (int64_t j = 0; j < width; ++j) middle[j] /= static_cast<float>(last - first);
        for (int64_t token = first; token < last; ++token) {
            const float* row = x + token * width;
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) {
                const float difference = row[j] - middle[j];
                rest[j] += difference;
                square[j] += difference * difference;
            }
        }
    });
    std::vector<double> together(width), deviation(width);
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const double before = static_cast<double>(piece * PIECE), more = static_cast<double>(std::min(PIECE, tokens - piece * PIECE));
        for (int64_t j = 0, at = piece * width; j < width; ++j, ++at) {
            const double step = means[at] + off[at] / more - together[j];
            together[j] += step * more / (before + more);
            deviation[j] += around[at] - static_cast<double>(off[at]) * off[at] / more + step * step * before * more / (before + more);
        }
    }
    std::copy(together.begin(), together.end(), mean);
    std::copy(deviation.begin(), deviation.end(), squares);
}

}  // namespace
