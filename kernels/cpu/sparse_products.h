// Products of any kind of matrix with dense vectors. Included once for every instruction set, inside a namespace.
//
// A kind of matrix M has m and n; rows in groups of `br` (`groups()` of them) and columns in groups of `bc`;
// `stored()` values in `bytes()`; `cut(part, parts)`, the group of rows where a part of the work begins; and
//   times<W>(first, last, x, ld, to, to_ld)  groups of rows times W vectors of numbers that lie across, `to` being
//                                            at the first row of the result; times_few for fewer than a vector
//   scatter<W>(first, last, x, x_ld, sums, ld, low, high)  adds groups of rows, each times its entry of x (x being at
//                                            the first), to the sums of the columns [low, high); likewise scatter_few
//
// Every element of a result is summed by one thread in the order of the matrix, so results do not depend on the number
// of threads. Vectors that lie along, and half precision, are turned a few at a time into a tile of floats.

// Rows turned at a time: one cache line of float.
constexpr i64 STRIP = 16;
// So few vectors are multiplied one by one: filling up a register with zeros would not pay.
constexpr i64 FEW = 2;
// A tile may take this part of what the operands take.
constexpr i64 SHARE = 8;
// Half of the second cache: a larger tile falls out of it.
constexpr i64 CACHED = 1 << 18;
// Multiplications that are worth a thread.
constexpr i64 GRAIN = 1 << 14;

template <class M>
int useful_threads(const M& a, i64 k, i64 threads) {
  return int(std::max<i64>(1, std::min<i64>(threads, (a.stored() + a.m) * k / GRAIN)));
}

// Calls `work` with W = WIDEST, ..., 2, 1 vectors from `start` on; returns the lanes left, too few for a vector.
template <int W, class A, class F>
i64 by_vectors(i64 start, i64 lanes, const F& work) {
  for (; lanes >= W * LANES<A>; start += W * LANES<A>, lanes -= W * LANES<A>)
    work(std::integral_constant<int, W>{}, start);
  if constexpr (W > 1) return by_vectors<W / 2, A>(start, lanes, work);
  return lanes;
}

template <class X, class M>
i64 spare_bytes(const M& a, i64 k) {
  return (a.bytes() + (a.m + a.n) * k * i64(sizeof(X))) / SHARE;
}

// Vectors to turn at once: the most whose tile stays in cache and is small beside the operands. Where even a cache line
// of each entry makes a tile that does not stay, more come at little cost.
template <class X, class M>
i64 tile_width(const M& a, i64 k) {
  constexpr i64 lanes = LANES<typename M::A>, size = sizeof(typename M::A);
  if (k <= FEW) return k;
  const bool stays = a.is_scattered && a.n * 64 <= CACHED;
  i64 width = lanes * M::WIDEST;
  const auto too_wide = [&] {
    const i64 bytes = a.n * width * size;
    return width / 2 >= k || bytes > spare_bytes<X>(a, k) || (stays && bytes > CACHED);
  };
  while (width > lanes && too_wide()) width /= 2;
  return width;
}

// Entries `first` to `last` of the vectors `start` to `start + lanes`, across; lanes up to `width` become zero.
template <class A, class X>
void turn(Dense<const X> x, i64 start, i64 lanes, i64 first, i64 last, A* to, i64 width) {
  for (i64 r = first; r < last; r += STRIP, to += STRIP * width) {
    const i64 rows = std::min(STRIP, last - r);
    if (lanes < width) std::fill(to, to + rows * width, A(0));
    if (x.across)
      for (i64 i = 0; i < rows; ++i)
        for (i64 c = 0; c < lanes; ++c) to[i * width + c] = widen(x.at[(r + i) * x.ld + start + c]);
    else
      for (i64 c = 0; c < lanes; ++c)
        for (i64 i = 0; i < rows; ++i) to[i * width + c] = widen(x.at[(start + c) * x.ld + r + i]);
  }
}

template <class A, class X>
void turn_back(const A* from, i64 width, i64 first, i64 rows, Dense<X> out, i64 start, i64 lanes) {
  for (i64 r = 0; r < rows; r += STRIP) {
    const i64 end = std::min(r + STRIP, rows);
    if (out.across)
      for (i64 i = r; i < end; ++i)
        for (i64 c = 0; c < lanes; ++c) put(out.at + (first + i) * out.ld + start + c, from[i * width + c]);
    else
      for (i64 c = 0; c < lanes; ++c)
        for (i64 i = r; i < end; ++i) put(out.at + (start + c) * out.ld + first + i, from[i * width + c]);
  }
}

// ---------------------------------------------------------------------------------------------- matrix times dense

// Groups of rows times a tile of vectors, gathered until there is a cache line of every vector.
template <class M, class A, class X>
void multiply_tile(const M& a, i64 first, i64 last, const A* tile, i64 width, Dense<X> out, i64 start, i64 lanes) {
  const i64 step = std::max<i64>(1, STRIP / a.br);
  const std::unique_ptr<A[]> sums(new A[step * a.br * width]);
  for (i64 group = first; group < last; group += step) {
    const i64 end = std::min(group + step, last), row = group * a.br;
    const i64 left = by_vectors<M::WIDEST, A>(0, width, [&](auto w, i64 c) {
      a.template times<decltype(w)::value>(group, end, tile + c, width, sums.get() + c, width);
    });
    if (left) a.times_few(group, end, tile, width, left, sums.get(), width);
    turn_back(sums.get(), width, row, std::min(end * a.br, a.m) - row, out, start, lanes);
  }
}

template <class M, class X>
void multiply_tiles(const M& a, Dense<const X> x, Dense<X> out, i64 k, i64 most_threads) {
  using A = typename M::A;
  const i64 width = tile_width<X>(a, k), tiles = (k + width - 1) / width, size = a.n * width;
  const auto lanes = [&](i64 tile) { return std::min(width, k - tile * width); };
  const int threads = useful_threads(a, k, most_threads);
  // Threads take tiles of their own where there are many, and memory for them; else they share one.
  if (threads == 1 || (tiles >= 2 * threads && threads * size * i64(sizeof(A)) <= spare_bytes<X>(a, k))) {
    const std::unique_ptr<A[]> room(new A[threads * size]);
    return each(tiles, threads, [&](i64 tile, int thread) {
      A* turned = room.get() + thread * size;
      turn(x, tile * width, lanes(tile), 0, a.n, turned, width);
      multiply_tile(a, 0, a.groups(), turned, width, out, tile * width, lanes(tile));
    });
  }
  const std::unique_ptr<A[]> turned(new A[size]);
  const i64 parts = threads * 8;
  for (i64 tile = 0; tile < tiles; ++tile) {
    each(parts, threads, [&](i64 part, int) {
      const i64 first = a.n * part / parts, last = a.n * (part + 1) / parts;
      turn(x, tile * width, lanes(tile), first, last, turned.get() + first * width, width);
    });
    each(parts, threads, [&](i64 part, int) {
      multiply_tile(a, a.cut(part, parts), a.cut(part + 1, parts), turned.get(), width, out, tile * width,
                    lanes(tile));
    });
  }
}

// As many vectors as are summed in registers, where they lie.
template <class M, class A>
void multiply_across(const M& a, Dense<const A> x, Dense<A> out, i64 k, i64 most_threads) {
  const int threads = useful_threads(a, k, most_threads);
  const i64 parts = threads == 1 ? 1 : threads * 16;
  each(parts, threads, [&](i64 part, int) {
    const i64 first = a.cut(part, parts), last = a.cut(part + 1, parts);
    A* to = out.at + first * a.br * out.ld;
    const i64 left = by_vectors<M::WIDEST, A>(0, k, [&](auto w, i64 c) {
      a.template times<decltype(w)::value>(first, last, x.at + c, x.ld, to + c, out.ld);
    });
    const i64 c = k - left;
    if (left) a.times_few(first, last, x.at + c, x.ld, left, to + c, out.ld);
  });
}

template <class M, class X>
void multiply(const M& a, Dense<const X> x, Dense<X> out, i64 k, i64 threads) {
  using A = typename M::A;
  if constexpr (std::is_same_v<X, A>) {
    if (k <= FEW && !x.across && !out.across) {
      for (i64 c = 0; c < k; ++c)
        multiply_across(a, Dense<const A>{x.at + c * x.ld, 1, true}, Dense<A>{out.at + c * out.ld, 1, true}, 1, threads);
      return;
    }
    // More vectors, or a rest of them, are better off in a tile: entries far apart push each other out of the cache.
    const bool fits = k <= FEW || (k <= M::WIDEST * LANES<A> && k % LANES<A> <= FEW);
    if (x.across && out.across && fits) return multiply_across(a, x, out, k, threads);
  }
  multiply_tiles(a, x, out, k, threads);
}

// ------------------------------------------------------------------------------------- transposed matrix times dense

// The sums of one range of columns and some lanes of the vectors.
template <class M, class A, class X>
void scatter_part(const M& a, Dense<const X> x, i64 start, i64 lanes, A* sums, i64 ld, i64 low, i64 high) {
  for (i64 column = low; column < high; ++column) std::fill_n(sums + (column - low) * ld, lanes, A(0));
  const auto add = [&](i64 first, i64 last, const A* entries, i64 x_ld) {
    const i64 left = by_vectors<M::WIDEST, A>(0, lanes, [&](auto w, i64 c) {
      a.template scatter<decltype(w)::value>(first, last, entries + c, x_ld, sums + c, ld, low, high);
    });
    const i64 c = lanes - left;
    if (left) a.scatter_few(first, last, entries + c, x_ld, left, sums + c, ld, low, high);
  };
  if constexpr (std::is_same_v<A, X>)
    if (x.across) return add(0, a.groups(), x.at + start, x.ld);
  const i64 step = std::max<i64>(1, STRIP / a.br);
  const std::unique_ptr<A[]> strip(new A[step * a.br * lanes]);
  for (i64 group = 0; group < a.groups(); group += step) {
    const i64 end = std::min(group + step, a.groups());
    turn(x, start, lanes, group * a.br, std::min(end * a.br, a.m), strip.get(), lanes);
    add(group, end, strip.get(), lanes);
  }
}

template <class M, class X>
void multiply_t(const M& a, Dense<const X> x, Dense<X> out, i64 k, i64 most_threads) {
  using A = typename M::A;
  const bool direct = std::is_same_v<A, X> && out.across;
  const int threads = useful_threads(a, k, most_threads);
  // A cache line of sums is written by one thread only.
  const i64 wanted = direct ? std::max<i64>(64 / sizeof(A), (k + threads - 1) / threads) : tile_width<X>(a, k);
  const i64 lanes = std::min(k, (wanted + LANES<A> - 1) / LANES<A> * LANES<A>);
  const i64 shares = (k + lanes - 1) / lanes, ranges = (threads + shares - 1) / shares;
  const i64 column_groups = (a.n + a.bc - 1) / a.bc;
  each(shares * ranges, threads, [&](i64 part, int) {
    const auto bound = [&](i64 range) { return std::min(column_groups * range / ranges * a.bc, a.n); };
    const i64 start = part / ranges * lanes, count = std::min(lanes, k - start);
    const i64 low = bound(part % ranges), high = bound(part % ranges + 1);
    if constexpr (std::is_same_v<A, X>)
      if (direct) return scatter_part(a, x, start, count, out.at + low * out.ld + start, out.ld, low, high);
    const std::unique_ptr<A[]> sums(new A[(high - low) * count]);
    scatter_part(a, x, start, count, sums.get(), count, low, high);
    turn_back(sums.get(), count, low, high - low, out, start, count);
  });
}

// ------------------------------------------------------------------------------- products at the places of the matrix

// For kinds with begin(row), where the values of a row begin, and column(row, p) of each.
template <class M, class A, class X>
void sample_rows(const M& a, i64 first, i64 last, Dense<const X> left, Dense<const X> right, i64 k, A* out, bool more) {
  for (i64 row = first; row < last; ++row)
    for (i64 p = a.begin(row), stop = a.begin(row + 1); p < stop; ++p) {
      if (a.is_scattered) {
        const char* next = reinterpret_cast<const char*>(right.at + a.column_ahead(p) * right.ld);
        for (i64 byte = 0; byte < k * i64(sizeof(X)); byte += 64) __builtin_prefetch(next + byte);
      }
      const A product = dot<A>(left.at + (row - first) * left.ld, right.at + a.column(row, p) * right.ld, k);
      out[p] = more ? out[p] + product : product;
    }
}

template <class M, class X>
void sample(const M& a, Dense<const X> left, Dense<const X> right, void* to, i64 k, i64 most_threads) {
  using A = typename M::A;
  A* out = static_cast<A*>(to);
  const int threads = useful_threads(a, k, most_threads);
  const i64 parts = threads == 1 ? 1 : threads * 16;
  if (left.across && right.across)
    return each(parts, threads, [&](i64 part, int) {
      const i64 first = a.cut(part, parts);
      const Dense<const X> rows{left.at + first * left.ld, left.ld, true};
      sample_rows(a, first, a.cut(part + 1, parts), rows, right, k, out, false);
    });
  const i64 width = tile_width<X>(a, k);
  const std::unique_ptr<A[]> tile(new A[a.n * width]);
  for (i64 start = 0; start < k; start += width) {
    const i64 lanes = std::min(width, k - start);
    each(parts, threads, [&](i64 part, int) {
      const i64 first = a.n * part / parts, last = a.n * (part + 1) / parts;
      turn(right, start, lanes, first, last, tile.get() + first * width, width);
    });
    each(parts, threads, [&](i64 part, int) {
      const std::unique_ptr<A[]> strip(new A[STRIP * width]);
      const Dense<const A> rows{strip.get(), width, true}, columns{tile.get(), width, true};
      for (i64 row = a.cut(part, parts), end = a.cut(part + 1, parts); row < end; row += STRIP) {
        const i64 last = std::min(row + STRIP, end);
        turn(left, start, lanes, row, last, strip.get(), width);
        sample_rows(a, row, last, rows, columns, width, out, start > 0);
      }
    });
  }
}

// --------------------------------------------------------------------------------------------------- from a call

template <class X, class M>
void multiply_call(const SparseCall& c, const M& a) {
  const Dense<const X> x = operand<X>(c.x, c.x_ld, c.x_across);
  const Dense<X> out{static_cast<X*>(c.out), c.out_ld, c.out_across != 0};
  if (c.operation == MULTIPLY) multiply(a, x, out, c.k, c.threads);
  else multiply_t(a, x, out, c.k, c.threads);
}

template <class X, class M>
void sample_call(const SparseCall& c, const M& a) {
  sample(a, operand<X>(c.x, c.x_ld, c.x_across), operand<X>(c.y, c.y_ld, c.y_across), c.out, c.k, c.threads);
}

// Calls `work.operator()<V, X>()` for the types of the call; false where they do not go together.
template <class F>
bool with_types(const SparseCall& c, const F& work) {
  switch (c.values_type << 2 | c.dense_type) {
    case FLOAT << 2 | FLOAT: work(float{}, float{}); return true;
    case FLOAT << 2 | HALF: work(float{}, Half{}); return true;
    case FLOAT << 2 | BFLOAT: work(float{}, BFloat{}); return true;
    case DOUBLE << 2 | DOUBLE: work(double{}, double{}); return true;
    case HALF << 2 | HALF: work(Half{}, Half{}); return true;
    case BFLOAT << 2 | BFLOAT: work(BFloat{}, BFloat{}); return true;
    default: return false;
  }
}
