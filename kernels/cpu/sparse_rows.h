// Matrices in compressed rows, of single entries or of blocks. Included once for every instruction set.

// Entries this far ahead are asked for while the present one is multiplied.
constexpr i64 AHEAD = 16;

template <class V>
struct Rows {
  using A = decltype(widen(V{}));  // what is summed
  i64 m, n, br, bc, down, right;
  const void* crow;
  const std::int32_t* col;  // of int64 the lower half, as no column is 2**31 or beyond
  bool wide;                // whether both are int64
  const V* values;

  explicit Rows(const SparseCall& c)
      : m(c.m), n(c.n), br(c.br), bc(c.bc), down(c.down), right(c.right), crow(c.crow),
        col(static_cast<const std::int32_t*>(c.col)), wide(c.wide_index != 0), values(static_cast<const V*>(c.values)) {}

  i64 begin(i64 group) const {
    return wide ? static_cast<const i64*>(crow)[group] : static_cast<const std::int32_t*>(crow)[group];
  }
  i64 column_group(i64 p) const { return col[p << wide]; }
  i64 groups() const { return (m + br - 1) / br; }
  i64 blocks() const { return begin(groups()); }
  i64 stored() const { return blocks() * br * bc; }
  i64 bytes() const { return stored() * i64(sizeof(V)) + blocks() * (wide ? 8 : 4); }

  i64 cut(i64 part, i64 parts) const {
    const i64 want = (blocks() + groups()) * part / parts;
    i64 low = 0, high = groups();
    while (low < high) {
      const i64 middle = (low + high) / 2;
      if (begin(middle) + middle < want) low = middle + 1;
      else high = middle;
    }
    return part == parts ? groups() : low;
  }
};

template <class V>
struct Entries : Rows<V> {
  static constexpr int WIDEST = MOST_VECTORS;
  static constexpr bool is_scattered = true;
  using A = typename Rows<V>::A;
  using Rows<V>::Rows;

  i64 column(i64, i64 p) const { return this->column_group(p); }
  i64 column_ahead(i64 p) const { return this->column_group(std::min(p + AHEAD, this->blocks() - 1)); }

  template <int W>
  void times(i64 first, i64 last, const A* x, i64 ld, A* to, i64 to_ld) const {
    const i64 end = this->blocks() - 1;
    for (i64 row = first; row < last; ++row, to += to_ld) {
      Vec<A> sum[W] = {};
      for (i64 p = this->begin(row), stop = this->begin(row + 1); p < stop; ++p) {
        ask<W>(x + this->column_group(std::min(p + AHEAD, end)) * ld);
        const A* at = x + this->column_group(p) * ld;
        const A value = widen(this->values[p]);
        UNROLL
        for (int w = 0; w < W; ++w) sum[w] += value * load(at + w * LANES<A>);
      }
      UNROLL
      for (int w = 0; w < W; ++w) put(to + w * LANES<A>, sum[w]);
    }
  }

  // In four strands, as one sum would wait for itself.
  void times_few(i64 first, i64 last, const A* x, i64 ld, i64 lanes, A* to, i64 to_ld) const {
    for (i64 row = first; row < last; ++row, to += to_ld)
      for (i64 c = 0; c < lanes; ++c) {
        A sum[4] = {};
        i64 p = this->begin(row);
        const i64 stop = this->begin(row + 1);
        const auto term = [&](i64 q) { return A(widen(this->values[q])) * x[this->column_group(q) * ld + c]; };
        for (; p + 4 <= stop; p += 4)
          for (int s = 0; s < 4; ++s) sum[s] += term(p + s);
        for (; p < stop; ++p) sum[0] += term(p);
        to[c] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
  }

  template <int W>
  void scatter(i64 first, i64 last, const A* x, i64 x_ld, A* sums, i64 ld, i64 low, i64 high) const {
    const i64 end = this->blocks() - 1;
    for (i64 row = first; row < last; ++row, x += x_ld) {
      Vec<A> entry[W];
      UNROLL
      for (int w = 0; w < W; ++w) entry[w] = load(x + w * LANES<A>);
      for (i64 p = this->begin(row), stop = this->begin(row + 1); p < stop; ++p) {
        const i64 next = this->column_group(std::min(p + AHEAD, end)), column = this->column_group(p);
        if (next >= low && next < high) ask<W>(sums + (next - low) * ld);
        if (column < low || column >= high) continue;
        A* at = sums + (column - low) * ld;
        const A value = widen(this->values[p]);
        UNROLL
        for (int w = 0; w < W; ++w) put(at + w * LANES<A>, load(at + w * LANES<A>) + value * entry[w]);
      }
    }
  }

  void scatter_few(i64 first, i64 last, const A* x, i64 x_ld, i64 lanes, A* sums, i64 ld, i64 low, i64 high) const {
    for (i64 row = first; row < last; ++row, x += x_ld)
      for (i64 p = this->begin(row), stop = this->begin(row + 1); p < stop; ++p) {
        const i64 column = this->column_group(p);
        if (column < low || column >= high) continue;
        const A value = widen(this->values[p]);
        A* at = sums + (column - low) * ld;
        at[0] += value * x[0];
        for (i64 c = 1; c < lanes; ++c) at[c] += value * x[c];
      }
  }
};

template <class V>
struct Blocks : Rows<V> {
  static constexpr int WIDEST = 2;  // beside four rows of the matrix
  static constexpr bool is_scattered = true;
  using A = typename Rows<V>::A;
  using Rows<V>::Rows;

  template <int W>
  void times(i64 first, i64 last, const A* x, i64 ld, A* to, i64 to_ld) const {
    for (i64 group = first; group < last; ++group, to += this->br * to_ld) {
      const i64 rows = this->rows_of(group);
      for (i64 i = 0; i < rows; ++i) std::fill_n(to + i * to_ld, W * LANES<A>, A(0));
      for (i64 p = this->begin(group), stop = this->begin(group + 1); p < stop; ++p) {
        const i64 column = this->column_group(p) * this->bc, columns = std::min(this->bc, this->n - column);
        add<W>({this->block(p), this->down, this->right}, rows, columns, x + column * ld, ld, to, to_ld);
      }
    }
  }

  void times_few(i64 first, i64 last, const A* x, i64 ld, i64 lanes, A* to, i64 to_ld) const {
    for (i64 group = first; group < last; ++group, to += this->br * to_ld) {
      const i64 rows = this->rows_of(group);
      for (i64 i = 0; i < rows; ++i) std::fill_n(to + i * to_ld, lanes, A(0));
      for (i64 p = this->begin(group), stop = this->begin(group + 1); p < stop; ++p) {
        const i64 column = this->column_group(p) * this->bc, columns = std::min(this->bc, this->n - column);
        add_few({this->block(p), this->down, this->right}, rows, columns, x + column * ld, ld, lanes, to, to_ld);
      }
    }
  }

  template <int W>
  void scatter(i64 first, i64 last, const A* x, i64 x_ld, A* sums, i64 ld, i64 low, i64 high) const {
    visit(first, last, low, high, [&](const V* block, i64 row, i64 rows, i64 column, i64 columns) {
      add<W>({block, this->right, this->down}, columns, rows, x + row * x_ld, x_ld, sums + column * ld, ld);
    });
  }

  void scatter_few(i64 first, i64 last, const A* x, i64 x_ld, i64 lanes, A* sums, i64 ld, i64 low, i64 high) const {
    visit(first, last, low, high, [&](const V* block, i64 row, i64 rows, i64 column, i64 columns) {
      add_few({block, this->right, this->down}, columns, rows, x + row * x_ld, x_ld, lanes, sums + column * ld, ld);
    });
  }

 private:
  // A block, or its transpose: entry (i, j) is at[i * down + j * right].
  struct Block {
    const V* at;
    i64 down, right;
  };

  i64 rows_of(i64 group) const { return std::min(this->br, this->m - group * this->br); }
  const V* block(i64 p) const { return this->values + p * this->br * this->bc; }

  // Every block in some groups of rows whose columns lie in [low, high), which begins and ends with a block.
  template <class F>
  void visit(i64 first, i64 last, i64 low, i64 high, const F& work) const {
    for (i64 group = first; group < last; ++group)
      for (i64 p = this->begin(group), stop = this->begin(group + 1); p < stop; ++p) {
        const i64 column = this->column_group(p) * this->bc;
        if (column < low || column >= high) continue;
        work(block(p), (group - first) * this->br, rows_of(group), column - low, std::min(this->bc, this->n - column));
      }
  }

  // Adds `rows` and `columns` of a block times W vectors of numbers to sums.
  template <int W>
  static void add(Block b, i64 rows, i64 columns, const A* x, i64 x_ld, A* sums, i64 ld) {
    i64 i = 0;
    for (; i + 4 <= rows; i += 4)
      add_rows<4, W>({b.at + i * b.down, b.down, b.right}, columns, x, x_ld, sums + i * ld, ld);
    for (; i < rows; ++i)
      add_rows<1, W>({b.at + i * b.down, b.down, b.right}, columns, x, x_ld, sums + i * ld, ld);
  }

  template <int R, int W>
  static void add_rows(Block b, i64 columns, const A* x, i64 x_ld, A* sums, i64 ld) {
    Vec<A> sum[R][W];
    UNROLL
    for (int r = 0; r < R; ++r)
      UNROLL
      for (int w = 0; w < W; ++w) sum[r][w] = load(sums + r * ld + w * LANES<A>);
    for (i64 j = 0; j < columns; ++j, x += x_ld)
      UNROLL
      for (int r = 0; r < R; ++r) {
        const A v = widen(b.at[r * b.down + j * b.right]);
        UNROLL
        for (int w = 0; w < W; ++w) sum[r][w] += v * load(x + w * LANES<A>);
      }
    UNROLL
    for (int r = 0; r < R; ++r)
      UNROLL
      for (int w = 0; w < W; ++w) put(sums + r * ld + w * LANES<A>, sum[r][w]);
  }

  static void add_few(Block b, i64 rows, i64 columns, const A* x, i64 x_ld, i64 lanes, A* sums, i64 ld) {
    if (lanes == 1 && b.right == 1 && x_ld == 1) {
      for (i64 i = 0; i < rows; ++i) sums[i * ld] += dot<A>(b.at + i * b.down, x, columns);
    } else if (lanes == 1 && b.down == 1 && ld == 1) {
      for (i64 j = 0; j < columns; ++j) add_multiple(b.at + j * b.right, A(x[j * x_ld]), rows, sums);
    } else {
      for (i64 i = 0; i < rows; ++i)
        for (i64 j = 0; j < columns; ++j)
          for (i64 c = 0; c < lanes; ++c)
            sums[i * ld + c] += A(widen(b.at[i * b.down + j * b.right])) * x[j * x_ld + c];
    }
  }

  static void add_multiple(const V* value, A x, i64 count, A* sums) {
    i64 i = 0;
    for (; i + LANES<A> <= count; i += LANES<A>) put(sums + i, load(sums + i) + x * load(value + i));
    for (; i < count; ++i) sums[i] += A(widen(value[i])) * x;
  }
};

inline bool run(const SparseCall& call) {
  return with_types(call, [&](auto value, auto entry) {
    using V = decltype(value);
    using X = decltype(entry);
    if (call.operation == SAMPLE) sample_call<X>(call, Entries<X>(call));
    else if (call.br == 1 && call.bc == 1) multiply_call<X>(call, Entries<V>(call));
    else multiply_call<X>(call, Blocks<V>(call));
  });
}
