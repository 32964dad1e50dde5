// Selection without the dense product: a product of 8-bit integers bounds every pre-activation from above and below, and only
// the few latents whose upper bound reaches the k-th largest lower bound are computed, in float32. See screening.py.
//
// With w' = w ⊙ stretch and x' = (x - mean) / stretch, stretched so that both have like spreads in each dimension,
// p = w·x + b = w'·x' + (w·mean + b). Both are rounded to whole steps, w' = s_w q_w + δ_w and x' = s_x q_x + δ_x, so that
// w'·x' = s_w s_x q_w·q_x + δ_w·(s_x q_x) + w'·δ_x. Rounding is dithered: each δ has mean 0 and lies within one step, whatever the
// numbers are. So by Hoeffding's inequality, over the dither, the last two terms exceed BOUND (s_w |s_x q_x| + s_x |w'|) with a
// probability below 4 exp(-2 BOUND²), 2e-5; that is six of their standard deviations on average, and what then is missed is a
// latent as good as the one in its place, but for rounding.
//
// A tile of TOKENS x VECTORS sums stays in registers. The products of bytes are an instruction of AVX512-VNNI and AVX-VNNI, four
// times as fast as float32's; elsewhere the same is computed slowly, for tests.

#include "common.hpp"

#include <cmath>
#include <memory>
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace {

using std::uint8_t;
using std::int8_t;

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr bool FAST = true;
constexpr int LANES = 16, VECTORS = 4;
#elif defined(__AVXVNNI__)
constexpr bool FAST = true;
constexpr int LANES = 8, VECTORS = 2;
#else
constexpr bool FAST = false;
constexpr int LANES = 8, VECTORS = 2;
#endif
constexpr int TOKENS = 6, PANEL = LANES * VECTORS;
constexpr int64_t LEAST_AT_ONCE = 96, MANY_AT_ONCE = 512, MOST_AT_ONCE = 1024;  // tokens of one thread: fewer stay in its cache,
constexpr int64_t LARGE_ENCODER = 1 << 23;                                      // more fetch a large encoder's bytes less often
constexpr float BOUND = 2.5f;
constexpr float ROUNDING = 4e-6f;  // of float32 sums of many terms, over the size of these
constexpr float LARGEST = 126.5f;  // of a row, in steps: with its dither it is a byte still
constexpr float SMALLEST_SIZE = 1e-30f, LARGEST_SIZE = 1e30f;  // between them nothing that is made of sizes overflows
constexpr int64_t SAMPLED_ROWS = 16;      // one encoder row in so many says how far a dimension's weights spread
constexpr float SMALLEST_SPREAD = 1e-3f;  // of a dimension, over the mean of all: a constant one is not stretched without end
constexpr float NONE = std::numeric_limits<float>::lowest(), NEVER = std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

template <class Vector, class T>
inline Vector load(const T* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

// To each lane's sum, the product of its four unsigned bytes with the four signed ones of `signed4`.
inline Sums add_products(Sums sums, const uint8_t* unsigned4, int32_t signed4) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    return Sums(_mm512_dpbusd_epi32(__m512i(sums), _mm512_loadu_si512(unsigned4), _mm512_set1_epi32(signed4)));
#elif defined(__AVXVNNI__)
    return Sums(_mm256_dpbusd_avx_epi32(__m256i(sums), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unsigned4)), _mm256_set1_epi32(signed4)));
#else
    for (int lane = 0; lane < LANES; ++lane)
        for (int byte = 0; byte < 4; ++byte)
            sums[lane] += static_cast<int32_t>(unsigned4[4 * lane + byte]) * static_cast<int8_t>(signed4 >> (8 * byte));
    return sums;
#endif
}

// A bit for each lane whose value is at least `least`.
inline uint32_t reaching(Floats values, float least) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    return _mm512_cmp_ps_mask(__m512(values), _mm512_set1_ps(least), _CMP_GE_OQ);
#elif defined(__AVXVNNI__)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(__m256(values), _mm256_set1_ps(least), _CMP_GE_OQ)));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES; ++lane) bits |= static_cast<uint32_t>(values[lane] >= least) << lane;
    return bits;
#endif
}

inline float largest_lane(const Floats& values) {
    float lanes[LANES];
    std::memcpy(lanes, &values, sizeof lanes);
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2)
#pragma omp simd
        for (int lane = 0; lane < half; ++lane) lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    return lanes[0];
}

// Write the lanes whose bit is set, one behind the other; what follows them, up to LANES in all, is overwritten.
template <class Vector, class T>
inline void write_lanes(const Vector& vector, uint32_t bits, T* to) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), __m512i(vector)));
#else
    for (; bits; bits &= bits - 1) *to++ = vector[__builtin_ctz(bits)];
#endif
}

// Numbers in [0, 1), in the place of the 1/2 that is added to round.
std::vector<float> dither(int64_t count, uint64_t state) {
    std::vector<float> numbers(count);
    for (float& number : numbers) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        number = static_cast<float>(state >> 40) * 0x1p-24f;
    }
    return numbers;
}

// One over the step of a row with this largest number; 0 for a row of zeros, and for one that is too small to be bounded.
inline float steps_to_one(float largest) { return largest >= SMALLEST_SIZE ? LARGEST / largest : 0.0f; }

// Whether no bound of a row overflows: by its size, all that is summed up, and by its largest number.
inline bool can_be_bounded(float size, float largest) { return size < LARGEST_SIZE && (largest == 0 || largest >= SMALLEST_SIZE); }

struct Shape {
    int64_t latents, width, groups;
    int64_t size = latents / groups, vectors = (size + LANES - 1) / LANES;  // of a group; its last vector is filled up
    int64_t panels = (groups * vectors + VECTORS - 1) / VECTORS, bytes = (width + 3) / 4 * 4;

    std::vector<int32_t> group, first;  // of each vector: its group, and its first latent

    Shape(int64_t latents, int64_t width, int64_t groups) : latents(latents), width(width), groups(groups) {
        for (int64_t vector = 0; vector < panels * VECTORS; ++vector) {
            group.push_back(static_cast<int32_t>(std::min(vector / vectors, groups - 1)));
            first.push_back(static_cast<int32_t>(group.back() * size + (vector - group.back() * vectors) * LANES));
        }
    }
};

// The rounded encoder, in panels of PANEL latents: four bytes of each latent, then the next four of each. Of each latent: its
// step s_w, the factors of its bounds, of s_x and of |s_x q_x|, and what is added to the lower and to the upper one.
struct Encoder {
    std::unique_ptr<uint8_t[]> bytes;
    std::vector<float> step, by_step, by_norm, floor, ceiling;
};

// The factors of a vector of latents.
struct Factors {
    Floats step, by_step, by_norm, floor, ceiling;

    Factors(const Encoder& encoder, int64_t lane)
        : step(load<Floats>(&encoder.step[lane])), by_step(load<Floats>(&encoder.by_step[lane])), by_norm(load<Floats>(&encoder.by_norm[lane])),
          floor(load<Floats>(&encoder.floor[lane])), ceiling(load<Floats>(&encoder.ceiling[lane])) {}

    Floats lower(const Sums& sums, float of_step, float of_norm) const {
        return (__builtin_convertvector(sums, Floats) * step - by_step) * of_step + (floor - by_norm * of_norm);
    }
    Floats upper(const Sums& sums, float of_step, float of_norm) const {
        return (__builtin_convertvector(sums, Floats) * step + by_step) * of_step + (ceiling + by_norm * of_norm);
    }
};

struct Inputs {
    const float *x, *W, *b, *minus;
    std::vector<float> mean, stretch, shrink;  // of each dimension of x; see the top. shrink: one over stretch

    Inputs(const float* x, const float* W, const float* b, const float* minus, int64_t tokens, const Shape& shape, int64_t threads)
        : x(x), W(W), b(b), minus(minus), mean(shape.width), stretch(shape.width), shrink(shape.width) {
        std::vector<float> of_x(shape.width), of_W(shape.width);
        moments(x, tokens, shape.width, threads, mean.data(), of_x.data());
        int64_t rows = 0;
        for (int64_t latent = 0; latent < shape.latents; latent += SAMPLED_ROWS, ++rows)
            for (int64_t i = 0; i < shape.width; ++i) of_W[i] += W[latent * shape.width + i] * W[latent * shape.width + i];
        to_spread(of_x, tokens);
        to_spread(of_W, rows);
        for (int64_t i = 0; i < shape.width; ++i) shrink[i] = 1.0f / (stretch[i] = std::sqrt(of_x[i] / of_W[i]));
    }

    // From sums of squares over so many rows to the root mean square of each dimension, kept from 0; 1 where all of them are 0.
    static void to_spread(std::vector<float>& squares, int64_t rows) {
        double sum = 0;
        for (float& one : squares) sum += one = std::sqrt(one / static_cast<float>(rows));
        const float least = SMALLEST_SPREAD * static_cast<float>(sum / static_cast<double>(squares.size()));
        for (float& one : squares) one = one + least > 0 ? one + least : 1.0f;
    }
};

bool round_encoder(const Inputs& in, const Shape& shape, int64_t threads, Encoder& encoder) {
    const int64_t lanes = shape.panels * PANEL;
    encoder.bytes.reset(new uint8_t[lanes * shape.bytes]);
    for (auto* factors : {&encoder.step, &encoder.by_step, &encoder.by_norm}) factors->assign(lanes, 0.0f);
    for (auto* added : {&encoder.floor, &encoder.ceiling}) added->assign(lanes, -NEVER);
    const std::vector<float> offsets = dither(shape.bytes, 1);
    double square = 0;
    for (int64_t i = 0; i < shape.width; ++i) square += static_cast<double>(in.mean[i]) * in.mean[i];
    const float mean_norm = static_cast<float>(std::sqrt(square));
    std::atomic<bool> bounded{true};
    in_parallel(shape.panels, 4, threads, [&](int64_t first, int64_t last) {
        std::vector<float> stretched(shape.bytes, 0.0f);
        std::vector<uint8_t> rounded(shape.bytes);
        for (int64_t lane = first * PANEL; lane < last * PANEL; ++lane) {
            uint8_t* out = encoder.bytes.get() + lane / PANEL * PANEL * shape.bytes + lane % PANEL * 4;
            const int64_t latent = shape.first[lane / LANES] + lane % LANES;
            if (latent >= (shape.group[lane / LANES] + 1) * shape.size) {
                for (int64_t i = 0; i < shape.bytes; i += 4) std::memset(out + i * PANEL, 128, 4);
                continue;
            }
            const float *w = in.W + latent * shape.width, *mean = in.mean.data(), *stretch = in.stretch.data(), *offset = offsets.data();
            float *value = stretched.data(), largest = 0, norm = 0, plain = 0, constant = 0;
#pragma omp simd reduction(max : largest) reduction(+ : norm, plain, constant)
            for (int64_t i = 0; i < shape.width; ++i) {
                value[i] = w[i] * stretch[i];
                largest = std::max(largest, std::abs(value[i]));
                norm += value[i] * value[i];
                plain += w[i] * w[i];
                constant += w[i] * mean[i];
            }
            const float scale = steps_to_one(largest);
            uint8_t* whole = rounded.data();
#pragma omp simd
            for (int64_t i = 0; i < shape.bytes; ++i) whole[i] = static_cast<uint8_t>(static_cast<int32_t>(value[i] * scale + (128.0f + offset[i])));
            for (int64_t i = 0; i < shape.bytes; i += 4) std::memcpy(out + i * PANEL, whole + i, 4);
            const float minus = in.minus ? in.minus[latent] : 0.0f;
            encoder.step[lane] = largest / LARGEST;
            const float rounding = ROUNDING * (std::abs(in.b[latent]) + std::abs(minus) + mean_norm * std::sqrt(plain));
            constant += in.b[latent] - minus;
            encoder.floor[lane] = constant - rounding;
            encoder.ceiling[lane] = constant + rounding;
            encoder.by_step[lane] = BOUND * std::sqrt(norm);
            encoder.by_norm[lane] = BOUND * largest / LARGEST;
            if (!can_be_bounded(norm + std::abs(constant) + rounding, largest)) bounded = false;
        }
    });
    return bounded;
}

// Some tokens, rounded; and, of each, the latents that may be among its largest.
template <bool grouped>
class Tokens {
  public:
    Tokens(const Inputs& inputs, const Shape& dimensions, int64_t first_token, int64_t count, int64_t k)
        : in(inputs), shape(dimensions), first(first_token), tokens(count), k(k),
          padded((count + TOKENS - 1) / TOKENS * TOKENS), room(16 * (grouped ? shape.groups + 4 : std::max<int64_t>((k + 3) / 4, 16))),
          bytes(padded * shape.bytes, 0), start(padded, 0), step(padded, 0.0f), norm(padded, 0.0f), held(padded, 0),
          least(padded * shape.groups, NONE), lower(new float[padded * room]), upper(new float[padded * room]), latent(new int32_t[padded * room]) {
        for (int lane = 0; lane < LANES; ++lane) lanes[lane] = lane;
        const std::vector<float> offsets = dither(shape.bytes, 2);
        std::vector<float> centred(shape.width);
        for (int64_t token = 0; token < tokens; ++token) {
            const float *x = in.x + (first + token) * shape.width, *mean = in.mean.data(), *shrink = in.shrink.data(), *offset = offsets.data();
            float *value = centred.data(), largest = 0, square = 0;
#pragma omp simd reduction(max : largest) reduction(+ : square)
            for (int64_t i = 0; i < shape.width; ++i) {
                value[i] = (x[i] - mean[i]) * shrink[i];
                largest = std::max(largest, std::abs(value[i]));
                square += value[i] * value[i];
            }
            if (!can_be_bounded(square, largest)) {
                give_up(token);
                continue;
            }
            const float scale = steps_to_one(largest);
            int8_t* whole = bytes.data() + token * shape.bytes;
            int32_t sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum, squares)
            for (int64_t i = 0; i < shape.width; ++i) {
                const int32_t q = static_cast<int32_t>(value[i] * scale + (128.0f + offset[i])) - 128;
                whole[i] = static_cast<int8_t>(q);
                sum += q;
                squares += q * q;
            }
            start[token] = -128 * sum;  // for the 128 by which the encoder's bytes are above their numbers
            step[token] = largest / LARGEST;
            norm[token] = step[token] * std::sqrt(static_cast<float>(squares));
        }
        for (int64_t token = tokens; token < padded; ++token) give_up(token);
    }

    void screen(const Encoder& encoder) {
        for (int64_t panel = 0; panel < shape.panels; ++panel)
            for (int64_t token = 0; token < padded; token += TOKENS) {
                alignas(64) Sums sums[TOKENS][VECTORS];
                for (uint32_t reached = multiply(encoder, panel, token, sums); reached; reached &= reached - 1) {
                    const int one = __builtin_ctz(reached) / VECTORS, vector = __builtin_ctz(reached) % VECTORS;
                    note(encoder, panel * VECTORS + vector, token + one, sums[one][vector]);
                }
            }
    }

    // The best of each token's candidates, by their float32 pre-activations; certain: whether a token's were not too many.
    void finish(int64_t* selected, float* values, uint8_t* certain) {
        for (int64_t token = 0; token < tokens; ++token)
            if (held[token] >= 0) tighten(token, 32);
        compute();
        const int64_t each = grouped ? shape.groups : k;
        for (int64_t token = 0; token < tokens; ++token)
            if ((certain[token] = held[token] >= 0)) choose(token, selected + token * each, values + token * each);
    }

  private:
    // Put the candidates' pre-activations in the place of their lower bounds: latent by latent, whose row then stays in the cache.
    void compute() {
        std::vector<int64_t> next(shape.latents + 1, 0);
        for_candidates([&](int64_t, int64_t at) { ++next[latent[at] + 1]; });
        for (int64_t i = 0; i < shape.latents; ++i) next[i + 1] += next[i];
        struct Pair {
            int32_t token, at;
        };
        std::vector<Pair> pairs(next.back());
        for_candidates([&](int64_t token, int64_t at) { pairs[next[latent[at]]++] = {static_cast<int32_t>(token), static_cast<int32_t>(at)}; });
        const float* const x = in.x + first * shape.width;
        for (int64_t i = 0, begin = 0; i < shape.latents; begin = next[i++]) {
            const Pair* own = pairs.data() + begin;
            const auto row = [&](int64_t pair) { return x + own[pair].token * shape.width; };
            multiply_rows(in.W + i * shape.width, next[i] - begin, shape.width, row, [&](int64_t pair, float product) { lower[own[pair].at] = product + in.b[i]; });
        }
    }

    template <class Body>
    void for_candidates(const Body& body) const {
        for (int64_t token = 0; token < tokens; ++token)
            for (int64_t at = token * room; at < token * room + held[token]; ++at) body(token, at);
    }

    // Candidates are in the order of their latents: a group's lie together, and the k best come out ascending.
    void choose(int64_t token, int64_t* selected, float* values) {
        const float* value = &lower[token * room];
        const int32_t* index = &latent[token * room];
        ranks.resize(held[token]);
        for (int64_t at = 0; at < held[token]; ++at) {
            const uint64_t rank = static_cast<uint32_t>(sortable(in.minus ? value[at] - in.minus[index[at]] : value[at])) ^ 0x80000000u;
            ranks[at] = rank << 32 | (0xffffffffu - static_cast<uint32_t>(index[at]));  // of equal ones the lowest latent
        }
        const auto take = [&](int64_t at, int64_t to) {
            selected[to] = index[at];
            values[to] = value[at];
        };
        if (grouped) {
            int64_t best = 0;
            for (int64_t at = 0; at < held[token]; ++at) {
                const int64_t group = index[at] / shape.size;
                if (index[best] / shape.size != group || ranks[at] > ranks[best]) best = at;
                take(best, group);
            }
            return;
        }
        sorted = ranks;
        std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<uint64_t>());
        for (int64_t at = 0, to = 0; to < k; ++at)
            if (ranks[at] >= sorted[k - 1]) take(at, to++);
    }

    void give_up(int64_t token) {
        held[token] = -1;
        std::fill_n(least.begin() + token * shape.groups, shape.groups, NEVER);
    }

    // The sums of some tokens and a panel; and a bit for each token and vector of which an upper bound reaches the token's bar.
    // Never inlined: elsewhere compilers run out of registers and keep the sums in memory.
    __attribute__((noinline)) uint32_t multiply(const Encoder& encoder, int64_t panel, int64_t token, Sums (*out)[VECTORS]) const {
        const int8_t* x = bytes.data() + token * shape.bytes;
        const uint8_t* latents = encoder.bytes.get() + panel * PANEL * shape.bytes;
        Sums sums[TOKENS][VECTORS];
#pragma GCC unroll 8
        for (int one = 0; one < TOKENS; ++one)
#pragma GCC unroll 4
            for (int vector = 0; vector < VECTORS; ++vector) sums[one][vector] = Sums{} + start[token + one];
        for (int64_t i = 0; i < shape.bytes; i += 4)
#pragma GCC unroll 8
            for (int one = 0; one < TOKENS; ++one) {
                const int32_t four = load<int32_t>(x + one * shape.bytes + i);
#pragma GCC unroll 4
                for (int vector = 0; vector < VECTORS; ++vector)
                    sums[one][vector] = add_products(sums[one][vector], latents + (i * VECTORS + vector * 4) * LANES, four);
            }
        uint32_t reached = 0;
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; ++vector) {
            const Factors factors(encoder, panel * PANEL + vector * LANES);
            const float* bar = &least[token * shape.groups + (grouped ? shape.group[panel * VECTORS + vector] : 0)];
#pragma GCC unroll 8
            for (int one = 0; one < TOKENS; ++one) {
                out[one][vector] = sums[one][vector];
                const Floats upper_bounds = factors.upper(sums[one][vector], step[token + one], norm[token + one]);
                reached |= static_cast<uint32_t>(reaching(upper_bounds, bar[one * shape.groups]) != 0) << (one * VECTORS + vector);
            }
        }
        return reached;
    }

    // Keep the latents of a vector whose upper bound reaches what the token has by now.
    void note(const Encoder& encoder, int64_t vector, int64_t token, const Sums& sums) {
        if (held[token] < 0) return;  // given up at a vector of this panel
        const Factors factors(encoder, vector * LANES);
        const Floats lower_bounds = factors.lower(sums, step[token], norm[token]), upper_bounds = factors.upper(sums, step[token], norm[token]);
        float& bar = least[token * shape.groups + (grouped ? shape.group[vector] : 0)];
        if (grouped) bar = std::max(bar, largest_lane(lower_bounds));
        if (held[token] + LANES > room) {
            tighten(token, 12);
            if (held[token] + LANES > room) return give_up(token);
        }
        const uint32_t reached = reaching(upper_bounds, bar);
        const int64_t at = token * room + held[token];
        write_lanes(lower_bounds, reached, &lower[at]);
        write_lanes(upper_bounds, reached, &upper[at]);
        write_lanes(lanes + shape.first[vector], reached, &latent[at]);
        held[token] += __builtin_popcount(reached);
    }

    // Raise the bar to (nearly) the k-th largest lower bound, by bisection, and drop the candidates below it.
    void tighten(int64_t token, int halvings) {
        const int64_t count = held[token];
        float *low = lower.get() + token * room, *high = upper.get() + token * room, *bar = least.data() + token * shape.groups;
        int32_t* index = latent.get() + token * room;
        if (!grouped && count >= k) {
            Floats smallest = Floats{} + NEVER, largest = Floats{} + NONE;
            int64_t vectors = 0;
            for (; vectors + LANES <= count; vectors += LANES) {
                const Floats lows = load<Floats>(low + vectors);
                smallest = lows < smallest ? lows : smallest;
                largest = lows > largest ? lows : largest;
            }
            float reached = -largest_lane(-smallest), beyond = largest_lane(largest);
            for (int64_t at = vectors; at < count; ++at) {
                reached = std::min(reached, low[at]);
                beyond = std::max(beyond, low[at]);
            }
            reached = std::max(reached, *bar);
            for (int halving = 0; halving < halvings; ++halving) {
                const float tried = reached + (beyond - reached) / 2;
                int32_t above = 0;
#pragma omp simd reduction(+ : above)
                for (int64_t at = 0; at < count; ++at) above += low[at] >= tried;
                (above >= k ? reached : beyond) = tried;
                if (above == k) break;
            }
            *bar = reached;
        }
        int64_t kept = 0;
        for (int64_t at = 0; at < count; at += LANES) {
            const Floats lows = load<Floats>(low + at), highs = load<Floats>(high + at);
            const Sums indices = load<Sums>(index + at);
            uint32_t reached = 0;
            if (grouped)
                for (int64_t lane = 0; lane < std::min<int64_t>(LANES, count - at); ++lane) reached |= static_cast<uint32_t>(highs[lane] >= bar[indices[lane] / shape.size]) << lane;
            else
                reached = reaching(highs, *bar) & ((2u << std::min<int64_t>(LANES - 1, count - at - 1)) - 1);
            write_lanes(lows, reached, low + kept);
            write_lanes(highs, reached, high + kept);
            write_lanes(indices, reached, index + kept);
            kept += __builtin_popcount(reached);
        }
        held[token] = kept;
    }

    const Inputs& in;
    const Shape& shape;
    const int64_t first, tokens, k;
    const int64_t padded, room;  // room: for so many candidates of a token, whole vectors
    std::vector<int8_t> bytes;
    std::vector<int32_t> start;
    std::vector<float> step, norm;
    std::vector<int64_t> held;  // how many candidates a token has; -1 where they were too many, and where nothing is sought
    std::vector<float> least;   // the bar of each of its groups: what an upper bound must reach
    std::unique_ptr<float[]> lower, upper;  // of the candidates, token by token: not filled with zeros first
    std::unique_ptr<int32_t[]> latent;
    std::vector<uint64_t> ranks, sorted;  // of one token's candidates
    Sums lanes;                           // 0, 1, 2, ...
};

}  // namespace

extern "C" {

int bsc_screening_is_fast() { return FAST; }

// `groups` of 0: the k largest of each token; else the largest of each group. Returns 0, and selects nothing, where the encoder
// is not finite, or its sizes are beyond what is bounded; certain: 0 for the tokens that are not done, as theirs are, or as their
// candidates are too many.
int bsc_screen(const float* x, const float* W, const float* b, const float* minus, int64_t tokens, int64_t latents, int64_t width, int64_t k, int64_t groups, int64_t threads, int64_t* selected, float* values, uint8_t* certain) {
    const Shape shape{latents, width, groups ? groups : 1};
    const Inputs inputs{x, W, b, minus, tokens, shape, threads};
    const int64_t each = groups ? groups : k;
    Encoder encoder;
    if (!round_encoder(inputs, shape, threads, encoder)) return 0;
    const int64_t most = shape.panels * PANEL * shape.bytes < LARGE_ENCODER ? MANY_AT_ONCE : MOST_AT_ONCE;
    const int64_t pieces = std::max(2 * threads, (tokens + most - 1) / most);
    const int64_t at_once = std::max(LEAST_AT_ONCE, (tokens + pieces * TOKENS - 1) / (pieces * TOKENS) * TOKENS);
    const auto select = [&](auto some, int64_t token) {
        some.screen(encoder);
        some.finish(selected + token * each, values + token * each, certain + token);
    };
    in_parallel(tokens, at_once, threads, [&](int64_t first, int64_t last) {
        if (groups)
            select(Tokens<true>(inputs, shape, first, last - first, k), first);
        else
            select(Tokens<false>(inputs, shape, first, last - first, k), first);
    });
    return 1;
}

}  // extern "C"
