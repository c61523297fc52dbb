// Matrices that keep two of each four entries of a row. Included once for every instruction set.
//
// The p-th kept entry of a row is in its group p / 2 of four columns, at the place that bits 2 (p % 4) and up of byte
// p / 4 tell. `crow` of the call points at these bytes.

template <class V>
struct TwoOfFour {
  static constexpr int WIDEST = MOST_VECTORS < 4 ? MOST_VECTORS : 4;
  static constexpr bool is_scattered = false;
  using A = decltype(widen(V{}));
  // One byte of places, so eight columns, is the least that parts of the columns can be divided into.
  static constexpr i64 br = 1, bc = 8;
  i64 m, n, kept, row_bytes;
  const std::uint8_t* places;
  const V* values;

  explicit TwoOfFour(const SparseCall& c)
      : m(c.m), n(c.n), kept(c.n / 4 * 2 + std::min<i64>(c.n % 4, 2)), row_bytes((kept + 3) / 4),
        places(static_cast<const std::uint8_t*>(c.crow)), values(static_cast<const V*>(c.values)) {}

  i64 groups() const { return m; }
  i64 stored() const { return m * kept; }
  i64 bytes() const { return m * (kept * i64(sizeof(V)) + row_bytes); }
  i64 cut(i64 part, i64 parts) const { return m * part / parts; }
  i64 begin(i64 row) const { return row * kept; }
  i64 column(i64 row, i64 p) const { return place(places + row * row_bytes, p - row * kept); }
  i64 column_ahead(i64) const { return 0; }

  // The column of the kept entry `q` of a row.
  static i64 place(const std::uint8_t* row, i64 q) { return q / 2 * 4 + (row[q / 4] >> q % 4 * 2 & 3); }

  // A strip of rows at a time, and of their columns as many as keep their entries of x in the first cache.
  template <int W>
  void times(i64 first, i64 last, const A* x, i64 ld, A* to, i64 to_ld) const {
    constexpr i64 lanes = W * LANES<A>;
    for (i64 row = first; row < last; row += STRIP)
      for (i64 q = 0; q == 0 || q < kept; q += NEAR / lanes)
        for (i64 r = row; r < std::min(row + STRIP, last); ++r)
          add_row<W>(r, q, std::min(q + NEAR / lanes, kept), x, ld, to + (r - first) * to_ld);
  }

  void times_few(i64 first, i64 last, const A* x, i64 ld, i64 lanes, A* to, i64 to_ld) const {
    for (i64 row = first; row < last; ++row, to += to_ld) {
      const std::uint8_t* bytes = places + row * row_bytes;
      const V* value = values + row * kept;
      for (i64 c = 0; c < lanes; ++c) {
        i64 q = 0;
        A sum[4] = {};
#ifdef CLISONIX_AVX2
        if constexpr (std::is_same_v<A, float>)
          if (ld == 1) sum[0] = permuted_dot(bytes, value, x + c, n, q);
#endif
        for (; q + 4 <= kept; q += 4) {
          const unsigned byte = bytes[q / 4];
          const A* at = x + 2 * q * ld + c;
          sum[0] += A(widen(value[q])) * at[(byte & 3) * ld];
          sum[1] += A(widen(value[q + 1])) * at[(byte >> 2 & 3) * ld];
          sum[2] += A(widen(value[q + 2])) * at[(4 + (byte >> 4 & 3)) * ld];
          sum[3] += A(widen(value[q + 3])) * at[(4 + (byte >> 6)) * ld];
        }
        for (; q < kept; ++q) sum[0] += A(widen(value[q])) * x[place(bytes, q) * ld + c];
        to[c] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    }
  }

  template <int W>
  void scatter(i64 first, i64 last, const A* x, i64 x_ld, A* sums, i64 ld, i64 low, i64 high) const {
    constexpr i64 lanes = W * LANES<A>;
    const i64 begin = low / 2, end = std::min(kept, (high + 7) / 8 * 4);
    for (i64 row = first; row < last; row += STRIP)
      for (i64 q = begin; q < end; q += NEAR / lanes)
        for (i64 r = row; r < std::min(row + STRIP, last); ++r)
          add_multiples<W>(r, q, std::min(q + NEAR / lanes, end), x + (r - first) * x_ld, sums - low * ld, ld);
  }

  void scatter_few(i64 first, i64 last, const A* x, i64 x_ld, i64 lanes, A* sums, i64 ld, i64 low, i64 high) const {
    const i64 begin = low / 2, end = std::min(kept, (high + 7) / 8 * 4);
    for (i64 row = first; row < last; ++row, x += x_ld) {
      const std::uint8_t* bytes = places + row * row_bytes;
      const V* value = values + row * kept;
      for (i64 c = 0; c < lanes; ++c) {
        i64 q = begin;
        for (; q + 4 <= end; q += 4) {
          const unsigned byte = bytes[q / 4];
          A* at = sums + (2 * q - low) * ld + c;
          at[(byte & 3) * ld] += A(widen(value[q])) * x[c];
          at[(byte >> 2 & 3) * ld] += A(widen(value[q + 1])) * x[c];
          at[(4 + (byte >> 4 & 3)) * ld] += A(widen(value[q + 2])) * x[c];
          at[(4 + (byte >> 6)) * ld] += A(widen(value[q + 3])) * x[c];
        }
        for (; q < end; ++q) sums[(place(bytes, q) - low) * ld + c] += A(widen(value[q])) * x[c];
      }
    }
  }

 private:
  // Bytes of values ahead to ask for, where a single stream of them would wait for memory.
  static constexpr i64 FAR = 2048;
  // Kept entries of a row whose columns are gone through before the next row: 16 KB of entries of x.
  static constexpr i64 NEAR = 16384 / sizeof(A) / 2;

  // Kept entries `q` to `end` of a row, a whole number of bytes but for the last, times W vectors of numbers.
  template <int W>
  void add_row(i64 row, i64 q, i64 end, const A* x, i64 ld, A* to) const {
    const std::uint8_t* bytes = places + row * row_bytes;
    const V* value = values + row * kept;
    // The next row's are not next in memory.
    for (i64 byte = 0; byte < (end - q) * i64(sizeof(V)); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(value + kept + q) + byte);
    // Two strands, as one sum would wait for itself.
    Vec<A> even[W] = {}, odd[W] = {};
    if (q > 0) {
      UNROLL
      for (int w = 0; w < W; ++w) even[w] = load(to + w * LANES<A>);
    }
    for (const A* at = x + 2 * q * ld; q + 4 <= end; q += 4, at += 8 * ld) {
      const unsigned byte = bytes[q / 4];
      const A* entry[4] = {at + (byte & 3) * ld, at + (byte >> 2 & 3) * ld, at + (4 + (byte >> 4 & 3)) * ld,
                           at + (4 + (byte >> 6)) * ld};
      const A v[4] = {widen(value[q]), widen(value[q + 1]), widen(value[q + 2]), widen(value[q + 3])};
      UNROLL
      for (int w = 0; w < W; ++w) {
        even[w] += v[0] * load(entry[0] + w * LANES<A>);
        odd[w] += v[1] * load(entry[1] + w * LANES<A>);
        even[w] += v[2] * load(entry[2] + w * LANES<A>);
        odd[w] += v[3] * load(entry[3] + w * LANES<A>);
      }
    }
    for (; q < end; ++q) {
      const A v = widen(value[q]);
      const A* at = x + place(bytes, q) * ld;
      UNROLL
      for (int w = 0; w < W; ++w) even[w] += v * load(at + w * LANES<A>);
    }
    UNROLL
    for (int w = 0; w < W; ++w) put(to + w * LANES<A>, even[w] + odd[w]);
  }

  // The same entries, each times x, added to the sums of their columns.
  template <int W>
  void add_multiples(i64 row, i64 q, i64 end, const A* x, A* sums, i64 ld) const {
    const std::uint8_t* bytes = places + row * row_bytes;
    const V* value = values + row * kept;
    Vec<A> entry[W];
    UNROLL
    for (int w = 0; w < W; ++w) entry[w] = load(x + w * LANES<A>);
    const auto add = [&](A v, A* at) {
      UNROLL
      for (int w = 0; w < W; ++w) put(at + w * LANES<A>, load(at + w * LANES<A>) + v * entry[w]);
    };
    for (A* at = sums + 2 * q * ld; q + 4 <= end; q += 4, at += 8 * ld) {
      const unsigned byte = bytes[q / 4];
      add(widen(value[q]), at + (byte & 3) * ld);
      add(widen(value[q + 1]), at + (byte >> 2 & 3) * ld);
      add(widen(value[q + 2]), at + (4 + (byte >> 4 & 3)) * ld);
      add(widen(value[q + 3]), at + (4 + (byte >> 6)) * ld);
    }
    for (; q < end; ++q) add(widen(value[q]), sums + place(bytes, q) * ld);
  }

#ifdef CLISONIX_AVX2
  // As much of a row times one vector as fills registers; `q` becomes the number of kept entries done.
  static float permuted_dot(const std::uint8_t* bytes, const V* value, const float* x, i64 n, i64& q) {
    const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), three = _mm256_set1_epi32(3);
    const __m256i groups = _mm256_setr_epi32(0, 0, 4, 4, 0, 0, 4, 4);
    // Eight kept entries of sixteen columns; places are the same bits for both halves, each used for its own.
    const auto step = [&](i64 at, Floats sum) {
      __builtin_prefetch(reinterpret_cast<const char*>(value + at) + FAR);
      std::uint16_t pair;
      std::memcpy(&pair, bytes + at / 4, 2);
      const __m256i bits = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(pair), shifts), three);
      const __m256i index = _mm256_add_epi32(bits, groups);
      const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + 2 * at), index);
      const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + 2 * at + 8), index);
      return sum + load(value + at) * same_bits<Floats>(_mm256_blend_ps(low, high, 0xf0));
    };
    Floats even = {}, odd = {};
    for (; 2 * q + 32 <= n; q += 16) even = step(q, even), odd = step(q + 8, odd);
    if (2 * q + 16 <= n) even = step(q, even), q += 8;
    even += odd;
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += even[i];
    return sum;
  }
#endif
};

inline bool run(const SparseCall& call) {
  return with_types(call, [&](auto value, auto entry) {
    using V = decltype(value);
    using X = decltype(entry);
    if (call.operation == SAMPLE) sample_call<X>(call, TwoOfFour<X>(call));
    else multiply_call<X>(call, TwoOfFour<V>(call));
  });
}
