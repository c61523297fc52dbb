// Numbers of four types and vectors of 32 bytes of them. Included once for every instruction set, inside a namespace.

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
typedef std::uint16_t Shorts __attribute__((vector_size(16)));
typedef std::uint32_t Words __attribute__((vector_size(32)));

template <class A>
using Vec = std::conditional_t<std::is_same_v<A, double>, Doubles, Floats>;
template <class A>
constexpr int LANES = 32 / sizeof(A);

template <class To, class From>
inline To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat x) { return same_bits<float>(std::uint32_t(x.bits) << 16); }
inline float widen(Half x) {
  const std::uint32_t bits = x.bits, size = bits & 0x7fffu;
  // The exponent is rebased by a multiplication, which is exact and takes subnormal numbers along.
  std::uint32_t wide = same_bits<std::uint32_t>(same_bits<float>(size << 13) * 0x1p112f);
  if (size >= 0x7c00u) wide |= 0x7f800000u;
  return same_bits<float>(wide | (bits & 0x8000u) << 16);
}

inline Floats load(const float* at) {
  Floats v;
  std::memcpy(&v, at, 32);
  return v;
}
inline Doubles load(const double* at) {
  Doubles v;
  std::memcpy(&v, at, 32);
  return v;
}
inline Floats load(const BFloat* at) {
  Shorts s;
  std::memcpy(&s, at, 16);
  return same_bits<Floats>(__builtin_convertvector(s, Words) << 16);
}
inline Floats load(const Half* at) {
#ifdef CLISONIX_AVX2
  __m128i s;
  std::memcpy(&s, at, 16);
  return same_bits<Floats>(_mm256_cvtph_ps(s));
#else
  Floats v;
  for (int i = 0; i < 8; ++i) v[i] = widen(at[i]);
  return v;
#endif
}

inline void put(float* at, float x) { *at = x; }
inline void put(double* at, double x) { *at = x; }
inline void put(BFloat* at, float x) {
  const std::uint32_t bits = same_bits<std::uint32_t>(x);
  at->bits = std::uint16_t(x != x ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void put(Half* at, float x) {
  const std::uint32_t bits = same_bits<std::uint32_t>(x), size = bits & 0x7fffffffu;
  std::uint32_t rounded;
  if (size >= 0x47800000u) {
    rounded = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (size < 0x38800000u) {
    // Beside one half, numbers have the spacing of half precision's subnormal ones: adding it rounds to them.
    rounded = same_bits<std::uint32_t>(same_bits<float>(size) + 0.5f) - 0x3f000000u;
  } else {
    rounded = (size + 0xc8000fffu + (size >> 13 & 1u)) >> 13;
  }
  at->bits = std::uint16_t(rounded | (bits >> 16 & 0x8000u));
}
inline void put(float* at, const Floats& v) { std::memcpy(at, &v, 32); }
inline void put(double* at, const Doubles& v) { std::memcpy(at, &v, 32); }

template <int W, class A>
inline void ask(const A* at) {
  for (int byte = 0; byte < W * 32; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(at) + byte);
}

template <class A, class X, class Y>
inline A dot(const X* x, const Y* y, i64 k) {
  Vec<A> sum[2] = {};
  i64 c = 0;
  for (; c + 2 * LANES<A> <= k; c += 2 * LANES<A>)
    UNROLL
    for (int w = 0; w < 2; ++w) sum[w] += load(x + c + w * LANES<A>) * load(y + c + w * LANES<A>);
  for (; c + LANES<A> <= k; c += LANES<A>) sum[0] += load(x + c) * load(y + c);
  sum[0] += sum[1];
  A all = 0;
  UNROLL
  for (int i = 0; i < LANES<A>; ++i) all += sum[0][i];
  for (; c < k; ++c) all += A(widen(x[c])) * widen(y[c]);
  return all;
}
