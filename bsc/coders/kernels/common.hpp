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

// In four sums beside each other, as one has to wait for itself.
inline float inner_product(const float* a, const float* b, int64_t width) {
    typedef float Sixteen __attribute__((vector_size(64)));
    Sixteen sums[4] = {}, left, right;
    int64_t j = 0;
    for (; j + 64 <= width; j += 64)
        for (int part = 0; part < 4; ++part) {
            std::memcpy(&left, a + j + 16 * part, sizeof left);
            std::memcpy(&right, b + j + 16 * part, sizeof right);
            sums[part] += left * right;
        }
    const Sixteen all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float total = 0;
    for (; j < width; ++j) total += a[j] * b[j];
    for (int lane = 0; lane < 16; ++lane) total += all[lane];
    return total;
}

}  // namespace
