// Outputs that are rows of the weights, by tables.
//
// Included after tables.h.

constexpr int64_t STRIP = 4 * UNIT;  // columns of a cache line; their inputs are rounded alike
constexpr int64_t NEAR = 4 * WIDTH;  // rows whose part of a strip stays in the nearest cache
constexpr int64_t HELD = 64;         // units whose tables stay in the second nearest
constexpr int64_t AHEAD = 2;         // strips

constexpr int64_t units_held(int64_t batch) { return std::max<int64_t>(HELD / batch, STRIP / UNIT); }

constexpr int64_t rows_scratch(int64_t outputs, int64_t batch) {
  return batch * (units_held(batch) * static_cast<int64_t>(sizeof(Unit)) + 4 * (outputs + TILE));
}

// The scales of NEAR rows from `i`, for each group of the columns `c` to `end`, at their places; ones if a row has one.
inline void gather_scales(const Weights& w, int64_t i, int64_t c, int64_t end, float (*gains)[NEAR]) {
  if (w.groups == 1) return std::fill(gains[0], gains[0] + NEAR, 1.0f);
  const int64_t first = c / w.group, count = (end - 1) / w.group + 1 - first, last = std::min(NEAR, w.m - i);
  const bool whole = w.scales.type == Type::f32 && count % 4 == 0;
  alignas(16) float copies[4][STRIP / PIECE] = {};
  for (int64_t at = 0; at < NEAR; at += 4) {
    const float* rows[4];
    for (int64_t k = 0; k < 4; ++k) {
      const int64_t r = at / WIDTH * WIDTH + output(at % WIDTH + k), start = (i + r) * w.groups + first;
      rows[k] = copies[k];
      if (r < last && whole) rows[k] = static_cast<const float*>(w.scales.data) + start;
      else if (r < last) w.scales.read(copies[k], start, count);
      if (whole) __builtin_prefetch(rows[k] + 16);
    }
    for (int64_t g = 0; g < count; g += 4) {
      __m128 a = _mm_loadu_ps(rows[0] + g), b = _mm_loadu_ps(rows[1] + g);
      __m128 c = _mm_loadu_ps(rows[2] + g), d = _mm_loadu_ps(rows[3] + g);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      _mm_store_ps(gains[g] + at, a);
      if (g + 1 < count) _mm_store_ps(gains[g + 1] + at, b);
      if (g + 2 < count) _mm_store_ps(gains[g + 2] + at, c);
      if (g + 3 < count) _mm_store_ps(gains[g + 3] + at, d);
    }
  }
}

// Inputs of a unit that share a scale.
struct Segment {
  int64_t first, last;
  const float* gains;  // of NEAR rows
};

inline int64_t cut(const Weights& w, int64_t c, int64_t end, const float (*gains)[NEAR], Segment* segments) {
  const int64_t first = c / w.group, before = c / STRIP * STRIP / w.group;
  int64_t count = 0;
  for (int64_t g = first; g * w.group < end; ++g, ++count)
    segments[count] = {std::max(g * w.group, c) - c, std::min((g + 1) * w.group, end) - c, gains[g - before]};
  return count;
}

// NEAR rows of some planes of a strip, turned.
typedef Bytes Turned[PLANES][STRIP / UNIT][NEAR / WIDTH][16];
// Where each tile of them is: there, or where it came from.
typedef const Bytes* Places[PLANES][STRIP / UNIT][NEAR / WIDTH];

// Some planes of NEAR rows from `i` and of the columns `strip` to `end`, and what their sums count.
struct Piece {
  const Weights& w;
  int64_t i, strip, end, low, planes;
  float weight, rest;
  const Places& places;

  int64_t units() const { return (end - strip + UNIT - 1) / UNIT; }
  // Part of the weights that come later: for this tile and unit, or of so many rows a line. A call would save all vectors.
  __attribute__((always_inline)) void fetch_ahead(int64_t p, int64_t u, int64_t tile) const {
    if (!w.tiled) {
      const int64_t c = strip + AHEAD * STRIP, behind = c - round_up(w.n, STRIP);
      return fetch(w, low + p, (behind < 0 ? i : i + NEAR) + (4 * tile + u) * (WIDTH / 4), WIDTH / 4, behind < 0 ? c : behind);
    }
    // A tile's next strip follows; after the last one comes the first of a tile as many further as are near.
    const int64_t skip = end < w.n ? 0 : (NEAR / ROWS_OF_TILE - 1) * ROWS_OF_TILE * w.row_bytes;
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(places[p][u][tile]) + STRIP / 8 * ROWS_OF_TILE + skip;
#pragma GCC unroll 8
    for (int k = 0; k < 16 * WIDTH; k += 64) __builtin_prefetch(bytes + k, 0, 2);
  }
  // How often inputs are looked up in all the planes, the first of which counts most.
  int64_t looked(int64_t inputs) const { return ((1 << planes) - 1) * inputs / 4; }
};

// Adds what a piece gives to a tile of it where all of the strip has one scale; `gains` null: it is multiplied in later.
template <bool gains>
inline void look_up_whole(const Piece& piece, int64_t tile, const Unit* units, int64_t batch, bool first,
                          const float* gain, float* to) {
  Digits digits{};
  float extra = 0;
  for (int64_t p = piece.planes; p-- > 0;) {
    if (p + 1 < piece.planes) twice(digits);
    for (int64_t u = 0; u < piece.units(); ++u) {
      if (first) piece.fetch_ahead(p, u, tile);
      look_up(piece.places[p][u][tile], units[u * batch].tables, 0, UNIT, digits);
    }
  }
  for (int64_t u = 0; u < piece.units(); ++u) extra += piece.rest * units[u * batch].sum;
  finish<gains>(digits, piece.looked(piece.units() * UNIT), piece.weight * units->scale, extra, gain, to);
}

// The same where a strip has several scales for a row: gains[group of the strip][row].
inline void look_up_groups(const Piece& piece, int64_t tile, const Unit* units, int64_t batch, bool first,
                           const float (*gains)[NEAR], float* to) {
  for (int64_t u = 0; u < piece.units(); ++u) {
    const Unit& unit = units[u * batch];
    const int64_t c = piece.strip + u * UNIT;
    if (first)
      for (int64_t p = 0; p < piece.planes; ++p)
        piece.fetch_ahead(p, u, tile);
    Segment segments[UNIT / PIECE];
    const int64_t count = cut(piece.w, c, std::min(piece.end, c + UNIT), gains, segments);
    for (const Segment* s = segments; s < segments + count; ++s) {
      const int64_t last = round_up(s->last, PIECE);
      Digits digits{};
      float extra = 0;
      for (int64_t p = piece.planes; p-- > 0;) {
        if (p + 1 < piece.planes) twice(digits);
        look_up(piece.places[p][u][tile], unit.tables, s->first, last, digits);
      }
      if (piece.rest != 0)
        for (int64_t k = s->first / PIECE; k < last / PIECE; ++k) extra += piece.rest * unit.sums[k];
      finish<true>(digits, piece.looked(last - s->first), piece.weight * unit.scale, extra, s->gains + tile * WIDTH, to);
    }
  }
}

// Adds what columns `strip` to `end` give to NEAR rows from `i`, or as many as there are to `last`, for each row of x.
inline void look_up_strip(const Weights& w, int64_t i, int64_t last, int64_t strip, int64_t end, int64_t batch,
                          const Unit* units, float* sums, int64_t stride) {
  alignas(64) float gains[STRIP / PIECE][NEAR];
  if (w.groups > 1) gather_scales(w, i, strip, end, gains);
  const int64_t tiles = (std::min(last - i, NEAR) + WIDTH - 1) / WIDTH;
  Turned turned;
  Places places;
  for (int64_t low = (w.bits - 1) / PLANES * PLANES; low >= 0; low -= PLANES) {
    const float weight = w.step * 0.5f * static_cast<float>(1 << low);
    const Piece piece{w, i, strip, end, low, std::min(PLANES, w.bits - low), weight, low ? 0 : rest(w), places};
    // The lines of rows a power of two apart share few places in the cache: all of a line at once.
    for (int64_t p = 0; p < piece.planes; ++p)
      for (int64_t tile = 0; tile < tiles; ++tile)
        for (int64_t u = 0; u < piece.units(); ++u) {
          const int64_t row = i + tile * WIDTH, at = (strip + u * UNIT) / 8;
          places[p][u][tile] = as_they_lie(w, low + p, row, at);
          if (places[p][u][tile]) continue;
          turn_rows(w, low + p, row, at, turned[p][u][tile]);
          places[p][u][tile] = turned[p][u][tile];
        }
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        float* to = sums + b * stride + tile * WIDTH;
        if (w.groups == 1) look_up_whole<false>(piece, tile, units + b, batch, b == 0, nullptr, to);
        else if (w.group % STRIP == 0) look_up_whole<true>(piece, tile, units + b, batch, b == 0, gains[0] + tile * WIDTH, to);
        else look_up_groups(piece, tile, units + b, batch, b == 0, gains, to);
      }
  }
}

inline bool tables_product(const Job& job, const Part& part, void* scratch) {
  const Weights& w = job.w;
  const int64_t batch = part.batch_last - part.batch_first, held = units_held(batch) * UNIT;
  const int64_t stride = round_up(part.last - part.first, WIDTH);
  Unit* units = static_cast<Unit*>(scratch);
  float* sums = reinterpret_cast<float*>(units + batch * units_held(batch));
  std::fill(sums, sums + batch * stride, 0.0f);
  alignas(64) float x[STRIP];
  for (int64_t start = 0; start < w.n; start += held) {
    const int64_t end = std::min(w.n, start + held);
    for (int64_t strip = start; strip < end; strip += STRIP)
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t count = std::min(STRIP, end - strip);
        job.x.read(x, (part.batch_first + b) * w.n + strip, count);
        std::fill(x + count, x + STRIP, 0.0f);
        const float largest = largest_size(x, STRIP);
        if (largest < 0) return false;
        for (int64_t c = 0; c < count; c += UNIT)
          prepare(x + c, largest, units + (strip - start + c) / UNIT * batch + b);
      }
    for (int64_t near = part.first; near < part.last; near += NEAR)
      for (int64_t strip = start; strip < end; strip += STRIP)
        look_up_strip(w, near, part.last, strip, std::min(strip + STRIP, end), batch,
                      units + (strip - start) / UNIT * batch, sums + near - part.first, stride);
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = part.first; i < part.last; i += WIDTH) {
      const int64_t count = std::min<int64_t>(WIDTH, part.last - i);
      float line[WIDTH], scales[WIDTH];
      std::fill(scales, scales + WIDTH, 1.0f);
      if (w.groups == 1) w.scales.read(scales, i, count);
      for (int64_t r = 0; r < count; ++r) line[r] = scales[r] * sums[b * stride + i - part.first + place(r)];
      job.y.write((part.batch_first + b) * w.m + i, line, count);
    }
  return true;
}
