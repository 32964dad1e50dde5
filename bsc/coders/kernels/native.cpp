// The CPU kernels, behind a C interface: compiled on first use and called by native.py, which says what each one computes.
//
// A token (or, for row gradients, a latent) is the work of one thread from beginning to end, in a fixed order: results do not
// depend on the number of threads. No intrinsics: the loops are written so that compilers vectorise them for what the CPU has.

#include "common.hpp"

#include <cmath>

namespace {

struct BFloat16 {
    uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) { return bits_of<float>(static_cast<uint32_t>(value.bits) << 16); }

template <class T, bool shifted>
inline int32_t key_at(const T* p, const float* minus, int64_t i) {
    const float value = widen(p[i]);
    return sortable(shifted ? value - minus[i] : value);
}

constexpr int64_t LANES_PER_SELECTED = 8;
constexpr int64_t BLOCK = 64;  // values that are looked at together before they are looked at one by one

template <class T>
inline T largest_of(const T* values, int64_t size, T least) {
    T largest = least;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < size; ++j) largest = values[j] > largest ? values[j] : largest;
    return largest;
}

// Where `sought` first stands among `values`; `size` if nowhere.
template <class T>
inline int64_t position(const T* values, int64_t size, T sought) {
    int64_t at = 0;
    for (; at + BLOCK <= size; at += BLOCK) {
        const T* block = values + at;
        int32_t found = 0;
#pragma omp simd reduction(| : found)
        for (int64_t j = 0; j < BLOCK; ++j) found |= block[j] == sought;
        if (found) break;
    }
    while (at < size && values[at] != sought) ++at;
    return at;
}

// The k largest of each row of p - minus; from one row of p to the next it is `stride` values. A first pass takes the maxima of strided lanes: the k-th largest of these maxima is
// no larger than the k-th largest value, so only what reaches it, a little more than k values, is ranked.
template <class T, bool shifted>
void top_k_rows(const T* p, const float* minus, int64_t tokens, int64_t latents, int64_t stride, int64_t k, int64_t threads, int64_t* selected) {
    const int64_t lanes = (LANES_PER_SELECTED * k + BLOCK - 1) / BLOCK * BLOCK;
    const bool by_lanes = 2 * lanes <= latents;
    in_parallel(tokens, 16, threads, [=](int64_t first, int64_t last) {
        std::vector<int32_t> keys(latents), maxima(lanes), ranked(lanes);
        std::vector<uint64_t> candidates;
        for (int64_t token = first; token < last; ++token) {
            const T* row = p + token * stride;
            int32_t bound = std::numeric_limits<int32_t>::min();
            int64_t i = 0;
            if (by_lanes) {
                std::fill(maxima.begin(), maxima.end(), bound);
                for (; i + lanes <= latents; i += lanes) {
                    int32_t* key = keys.data() + i;
                    int32_t* maximum = maxima.data();
#pragma omp simd
                    for (int64_t lane = 0; lane < lanes; ++lane) {
                        key[lane] = key_at<T, shifted>(row + i, minus + (shifted ? i : 0), lane);
                        maximum[lane] = std::max(maximum[lane], key[lane]);
                    }
                }
                ranked = maxima;
                std::nth_element(ranked.begin(), ranked.begin() + (k - 1), ranked.end(), std::greater<int32_t>());
                bound = ranked[k - 1];
            }
            for (; i < latents; ++i) keys[i] = key_at<T, shifted>(row, minus, i);
            candidates.clear();
            const auto consider = [&](int64_t latent) {
                if (keys[latent] >= bound) {
                    const uint64_t rank = static_cast<uint32_t>(keys[latent]) ^ 0x80000000u;
                    candidates.push_back(rank << 32 | (0xffffffffu - static_cast<uint32_t>(latent)));
                }
            };
            int64_t block = 0;
            for (; block + BLOCK <= latents; block += BLOCK) {
                const int32_t* key = keys.data() + block;
                int32_t reached = 0;
#pragma omp simd reduction(| : reached)
                for (int64_t j = 0; j < BLOCK; ++j) reached |= key[j] >= bound;
                if (reached)
                    for (int64_t j = 0; j < BLOCK; ++j) consider(block + j);
            }
            for (; block < latents; ++block) consider(block);
            std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(), std::greater<uint64_t>());
            int64_t* out = selected + token * k;
            for (int64_t s = 0; s < k; ++s) out[s] = 0xffffffffu - static_cast<uint32_t>(candidates[s]);
            std::sort(out, out + k);
        }
    });
}

template <class T, bool shifted>
void winner_rows(const T* p, const float* minus, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* selected) {
    in_parallel(tokens, 16, threads, [=](int64_t first, int64_t last) {
        std::vector<int32_t> keys(size);
        for (int64_t token = first; token < last; ++token)
            for (int64_t group = 0; group < groups; ++group) {
                const T* row = p + (token * groups + group) * size;
                const float* less = minus + (shifted ? group * size : 0);
                int32_t* key = keys.data();
#pragma omp simd
                for (int64_t j = 0; j < size; ++j) key[j] = key_at<T, shifted>(row, less, j);
                const int32_t best = largest_of<int32_t>(key, size, std::numeric_limits<int32_t>::min());
                selected[token * groups + group] = group * size + position(key, size, best);
            }
    });
}

inline BFloat16 narrow(float value, BFloat16) {
    const uint32_t bits = bits_of<uint32_t>(value);
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline float narrow(float value, float) { return value; }

// exp and log to about one unit in the last place (polynomials of Cephes), in a form that is vectorised.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float rounded = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const float r = (x - rounded * 0.693359375f) + rounded * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    return y * bits_of<float>((static_cast<int32_t>(rounded) + 127) << 23);
}

inline float logarithm(float x) {  // x > 0, normal
    const int32_t bits = bits_of<int32_t>(x);
    const int32_t exponent = (bits - 0x3f3504f3) >> 23;
    const float m = bits_of<float>(bits - (exponent << 23)) - 1.0f;
    const float e = static_cast<float>(exponent);
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * (m * m) - e * 2.12194440e-4f - 0.5f * (m * m);
    return m + y + e * 0.693359375f;
}

inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Standard Gumbel noise of a latent on the token that the keys stand for: see `noise.gumbel` for the same in torch.
inline float gumbel(uint32_t latent, uint32_t key0, uint32_t key1) {
    const uint32_t random = mixed(mixed(latent + key0) ^ key1);
    const float uniform = (static_cast<float>(static_cast<int32_t>(random >> 9)) + 0.5f) * 0x1p-23f;
    return -logarithm(-logarithm(uniform));
}

// A group of p, with the noise of its token where keys are given.
template <class T>
inline void load_group(const T* p, const int64_t* keys, int64_t first, int64_t size, float* values) {
    if (keys == nullptr) {
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) values[j] = widen(p[j]);
    } else {
        const uint32_t key0 = static_cast<uint32_t>(keys[0]), key1 = static_cast<uint32_t>(keys[1]);
        const uint32_t latent = static_cast<uint32_t>(first);
#pragma omp simd
        for (int32_t j = 0; j < static_cast<int32_t>(size); ++j)
            values[j] = widen(p[j]) + gumbel(latent + static_cast<uint32_t>(j), key0, key1);
    }
}

template <class T>
void softmax_rows(const T* p, const int64_t* keys, float beta, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* winners, float* largest, float* total) {
    in_parallel(tokens, 8, threads, [=](int64_t first, int64_t last) {
        std::vector<float> buffer(size);
        float* values = buffer.data();
        for (int64_t token = first; token < last; ++token)
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t at = token * groups + group;
                load_group(p + at * size, keys ? keys + 2 * token : nullptr, group * size, size, values);
                const float best = largest_of<float>(values, size, -std::numeric_limits<float>::infinity());
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < size; ++j) sum += exponential(beta * (values[j] - best));
                const int64_t found = position<float>(values, size, best);
                winners[at] = group * size + (found < size ? found : 0);  // all of it may be NaN
                largest[at] = best;
                total[at] = sum;
            }
    });
}

struct Softmax {
    const int64_t* keys;
    float beta;
    const float *largest, *factor;  // factor: what exp(beta (value - largest)) is multiplied by
};

template <class T>
void softmax_gradient_rows(const T* p, const Softmax* terms, int64_t count, const int64_t* indices, const float* extra, int64_t selected, int64_t tokens, int64_t groups, int64_t size, int64_t threads, T* gradient) {
    in_parallel(tokens, 8, threads, [=](int64_t first, int64_t last) {
        std::vector<float> values(size), sums(groups * size);
        for (int64_t token = first; token < last; ++token) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (int64_t term = 0; term < count; ++term) {
                const Softmax& softmax = terms[term];
                for (int64_t group = 0; group < groups; ++group) {
                    const int64_t at = token * groups + group;
                    const float beta = softmax.beta, largest = softmax.largest[at], factor = softmax.factor[at];
                    if (factor == 0.0f) continue;
                    load_group(p + at * size, softmax.keys ? softmax.keys + 2 * token : nullptr, group * size, size, values.data());
                    float* sum = sums.data() + group * size;
                    const float* value = values.data();
#pragma omp simd
                    for (int64_t j = 0; j < size; ++j) sum[j] += factor * exponential(beta * (value[j] - largest));
                }
            }
            for (int64_t s = 0; s < selected; ++s) sums[indices[token * selected + s]] += extra[token * selected + s];
            T* out = gradient + token * groups * size;
            const float* sum = sums.data();
#pragma omp simd
            for (int64_t j = 0; j < groups * size; ++j) out[j] = narrow(sum[j], T{});
        }
    });
}

// The first latent of each group whose cumulative probability exceeds a uniform number.
template <class T>
void draw_rows(const T* p, const float* largest, const float* total, const float* uniform, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* drawn) {
    in_parallel(tokens, 8, threads, [=](int64_t first, int64_t last) {
        std::vector<float> weights(size);
        for (int64_t token = first; token < last; ++token)
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t at = token * groups + group;
                const T* row = p + at * size;
                const float most = largest[at];
                float* weight = weights.data();
#pragma omp simd
                for (int64_t j = 0; j < size; ++j) weight[j] = exponential(widen(row[j]) - most);
                const float target = uniform[at] * total[at];
                int64_t chosen = 0;
                float below = 0;  // the sum of what stands before `chosen`
                for (; chosen + BLOCK < size; chosen += BLOCK) {
                    float block = 0;
#pragma omp simd reduction(+ : block)
                    for (int64_t j = 0; j < BLOCK; ++j) block += weight[chosen + j];
                    if (below + block > target) break;
                    below += block;
                }
                while (chosen + 1 < size && below + weight[chosen] <= target) below += weight[chosen++];
                drawn[at] = group * size + chosen;
            }
    });
}

// Newton on the logarithm of Σ_j σ(p_j - τ), nearly a straight line in τ, and bisection where a step leaves the bracket.
template <class T>
void threshold_rows(const T* p, int64_t tokens, int64_t latents, int64_t k, int64_t threads, float* thresholds) {
    constexpr float TOLERANCE = 1e-5f;
    constexpr int ITERATIONS = 60;
    in_parallel(tokens, 4, threads, [=](int64_t first, int64_t last) {
        std::vector<float> buffer(latents);
        float* values = buffer.data();
        const float goal = static_cast<float>(k), shift = std::log(goal / static_cast<float>(latents - k));
        for (int64_t token = first; token < last; ++token) {
            const T* row = p + token * latents;
            load_group(row, nullptr, 0, latents, values);
            const float largest = largest_of<float>(values, latents, -std::numeric_limits<float>::infinity());
            float smallest = largest;
#pragma omp simd reduction(min : smallest)
            for (int64_t j = 0; j < latents; ++j) smallest = values[j] < smallest ? values[j] : smallest;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < latents; ++j) sum += exponential(values[j] - largest);
            float low = smallest - shift, high = largest - shift;
            float threshold = std::min(std::max(largest + std::log(sum / goal), low), high);
            for (int iteration = 0; iteration < ITERATIONS; ++iteration) {
                float total = 0, slope = 0;
#pragma omp simd reduction(+ : total, slope)
                for (int64_t j = 0; j < latents; ++j) {
                    const float gate = 1.0f / (1.0f + exponential(threshold - values[j]));
                    total += gate;
                    slope += gate - gate * gate;
                }
                if (std::abs(total - goal) <= TOLERANCE * goal) break;
                (total > goal ? low : high) = threshold;
                const float newton = threshold + total * std::log(total / goal) / slope;
                threshold = newton > low && newton < high ? newton : (low + high) / 2;
            }
            thresholds[token] = threshold;
        }
    });
}

template <class T>
void column_sums(const T* values, int64_t rows, int64_t columns, int64_t threads, float* sums) {
    constexpr int64_t STRIP = 1024;
    in_parallel((columns + STRIP - 1) / STRIP, 1, threads, [=](int64_t strip, int64_t) {
        const int64_t first = strip * STRIP, width = std::min(STRIP, columns - first);
        float* sum = sums + first;
        std::fill(sum, sum + width, 0.0f);
        for (int64_t row = 0; row < rows; ++row) {
            const T* value = values + row * columns + first;
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) sum[j] += widen(value[j]);
        }
    });
}

}  // namespace

extern "C" {

void bsc_top_k_float32(const float* p, const float* minus, int64_t tokens, int64_t latents, int64_t stride, int64_t k, int64_t threads, int64_t* selected) {
    (minus ? top_k_rows<float, true> : top_k_rows<float, false>)(p, minus, tokens, latents, stride, k, threads, selected);
}

void bsc_top_k_bfloat16(const BFloat16* p, const float* minus, int64_t tokens, int64_t latents, int64_t stride, int64_t k, int64_t threads, int64_t* selected) {
    (minus ? top_k_rows<BFloat16, true> : top_k_rows<BFloat16, false>)(p, minus, tokens, latents, stride, k, threads, selected);
}

void bsc_winners_float32(const float* p, const float* minus, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* selected) {
    (minus ? winner_rows<float, true> : winner_rows<float, false>)(p, minus, tokens, groups, size, threads, selected);
}

void bsc_winners_bfloat16(const BFloat16* p, const float* minus, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* selected) {
    (minus ? winner_rows<BFloat16, true> : winner_rows<BFloat16, false>)(p, minus, tokens, groups, size, threads, selected);
}

void bsc_softmax_float32(const float* p, const int64_t* keys, double beta, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* winners, float* largest, float* total) {
    softmax_rows(p, keys, static_cast<float>(beta), tokens, groups, size, threads, winners, largest, total);
}

void bsc_softmax_bfloat16(const BFloat16* p, const int64_t* keys, double beta, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* winners, float* largest, float* total) {
    softmax_rows(p, keys, static_cast<float>(beta), tokens, groups, size, threads, winners, largest, total);
}

void bsc_softmax_gradient_float32(const float* p, const Softmax* terms, int64_t count, const int64_t* indices, const float* extra, int64_t selected, int64_t tokens, int64_t groups, int64_t size, int64_t threads, float* gradient) {
    softmax_gradient_rows(p, terms, count, indices, extra, selected, tokens, groups, size, threads, gradient);
}

void bsc_softmax_gradient_bfloat16(const BFloat16* p, const Softmax* terms, int64_t count, const int64_t* indices, const float* extra, int64_t selected, int64_t tokens, int64_t groups, int64_t size, int64_t threads, BFloat16* gradient) {
    softmax_gradient_rows(p, terms, count, indices, extra, selected, tokens, groups, size, threads, gradient);
}

void bsc_draw_float32(const float* p, const float* largest, const float* total, const float* uniform, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* drawn) {
    draw_rows(p, largest, total, uniform, tokens, groups, size, threads, drawn);
}

void bsc_draw_bfloat16(const BFloat16* p, const float* largest, const float* total, const float* uniform, int64_t tokens, int64_t groups, int64_t size, int64_t threads, int64_t* drawn) {
    draw_rows(p, largest, total, uniform, tokens, groups, size, threads, drawn);
}

void bsc_column_sums_float32(const float* values, int64_t rows, int64_t columns, int64_t threads, float* sums) {
    column_sums(values, rows, columns, threads, sums);
}

void bsc_column_sums_bfloat16(const BFloat16* values, int64_t rows, int64_t columns, int64_t threads, float* sums) {
    column_sums(values, rows, columns, threads, sums);
}

void bsc_moments(const float* x, int64_t tokens, int64_t width, int64_t threads, float* mean, float* squares) {
    moments(x, tokens, width, threads, mean, squares);
}

void bsc_threshold_float32(const float* p, int64_t tokens, int64_t latents, int64_t k, int64_t threads, float* thresholds) {
    threshold_rows(p, tokens, latents, k, threads, thresholds);
}

void bsc_threshold_bfloat16(const BFloat16* p, int64_t tokens, int64_t latents, int64_t k, int64_t threads, float* thresholds) {
    threshold_rows(p, tokens, latents, k, threads, thresholds);
}

void bsc_decode(const int64_t* indices, const float* values, const float* rows, int64_t tokens, int64_t selected, int64_t width, int64_t threads, float* total) {
    in_parallel(tokens, 16, threads, [=](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token) {
            const int64_t at = token * selected;
            float* sum = total + token * width;
            std::fill(sum, sum + width, 0.0f);
            add_rows(sum, selected, width, [=](int64_t s) { return rows + indices[at + s] * width; }, [=](int64_t s) { return values[at + s]; });
        }
    });
}

void bsc_value_gradient(const int64_t* indices, const float* gradient, const float* rows, int64_t tokens, int64_t selected, int64_t width, int64_t threads, float* products) {
    in_parallel(tokens, 16, threads, [=](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token) {
            const int64_t at = token * selected;
            multiply_rows(gradient + token * width, selected, width, [=](int64_t s) { return rows + indices[at + s] * width; }, [=](int64_t s, float product) { products[at + s] = product; });
        }
    });
}

// A token's rows are in the cache still when its residual is multiplied by them.
void bsc_residual(const int64_t* indices, const float* values, const float* rows, const float* y, const float* bias, const float* skip, int64_t tokens, int64_t selected, int64_t width, int64_t threads, float* residual, float* squares, float* products) {
    in_parallel(tokens, 16, threads, [=](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token) {
            const int64_t at = token * selected;
            const auto row = [=](int64_t s) { return rows + indices[at + s] * width; };
            float* rest = residual + token * width;
            std::copy_n(y + token * width, width, rest);
            if (bias) add_scaled(rest, bias, -1.0f, width);
            if (skip) add_scaled(rest, skip + token * width, -1.0f, width);
            add_rows(rest, selected, width, row, [=](int64_t s) { return -values[at + s]; });
            squares[token] = inner_product(rest, rest, width);
            multiply_rows(rest, selected, width, row, [=](int64_t s, float product) { products[at + s] = product; });
        }
    });
}

// Entries are sorted by latent (a counting sort keeps them in the order of the tokens), then each latent adds up its own.
void bsc_row_gradient(const int64_t* indices, const float* weights, const float* x, int64_t tokens, int64_t selected, int64_t latents, int64_t width, int64_t threads, float* total) {
    const int64_t entries = tokens * selected;
    std::vector<int64_t> begin(latents + 1, 0);
    for (int64_t entry = 0; entry < entries; ++entry) ++begin[indices[entry] + 1];
    for (int64_t latent = 0; latent < latents; ++latent) begin[latent + 1] += begin[latent];
    struct Entry {
        int32_t token;
        float weight;
    };
    std::vector<Entry> sorted(entries);
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t token = 0, entry = 0; token < tokens; ++token)
        for (int64_t s = 0; s < selected; ++s, ++entry)
            sorted[next[indices[entry]]++] = {static_cast<int32_t>(token), weights[entry]};
    in_parallel(latents, 32, threads, [&](int64_t first, int64_t last) {
        for (int64_t latent = first; latent < last; ++latent) {
            const Entry* own = sorted.data() + begin[latent];
            float* sum = total + latent * width;
            std::fill(sum, sum + width, 0.0f);
            add_rows(sum, begin[latent + 1] - begin[latent], width, [=](int64_t e) { return x + own[e].token * width; }, [=](int64_t e) { return own[e].weight; });
        }
    });
}

}  // extern "C"
