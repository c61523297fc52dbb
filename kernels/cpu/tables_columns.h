// Outputs that are columns of the weights, by tables; each row has one scale, which is multiplied into x.
//
// Included after tables_rows.h.

constexpr int64_t columns_scratch(int64_t outputs, int64_t batch) {
  return batch * (static_cast<int64_t>(sizeof(Unit)) + 4 * (outputs + TILE));
}

inline bool tables_adjoint(const Job& job, const Part& part, void* scratch) {
  const Weights& w = job.w;
  const int64_t batch = part.batch_last - part.batch_first;
  const int64_t stride = round_up(part.last - part.first, TILE);
  Unit* units = static_cast<Unit*>(scratch);
  float* sums = reinterpret_cast<float*>(units + batch);
  std::fill(sums, sums + batch * stride, 0.0f);
  alignas(64) float x[UNIT];
  for (int64_t i = 0; i < w.m; i += UNIT) {
    const int64_t count = std::min(UNIT, w.m - i);
    float scales[UNIT];
    w.scales.read(scales, i, count);
    for (int64_t b = 0; b < batch; ++b) {
      job.x.read(x, (part.batch_first + b) * w.m + i, count);
      for (int64_t k = 0; k < count; ++k) x[k] *= scales[k];
      std::fill(x + count, x + UNIT, 0.0f);
      const float largest = largest_size(x, UNIT);
      if (largest < 0) return false;
      prepare(x, largest, units + b);
    }
    for (int64_t j = part.first; j < part.last; j += TILE) {
      for (int64_t low = (w.bits - 1) / PLANES * PLANES; low >= 0; low -= PLANES) {
        const int64_t planes = std::min(PLANES, w.bits - low), looked = (1 << planes) - 1;
        const int64_t stop = round_up(count, PIECE);
        const float weight = w.step * 0.5f * static_cast<float>(1 << low), rest_weight = low ? 0 : rest(w);
        Bytes turned[PLANES][8][UNIT / 8];
        for (int64_t p = 0; p < planes; ++p) {
          if (!w.tiled) fetch(w, low + p, i, count, j + STRIP);
          for (int64_t k = 0; k < stop / 8; k += 2) {
            Bytes rows[16];
            sixteen_rows(w, low + p, i + 8 * k, j / 8, rows);
            turn_bits(rows);
            turn_bits(rows + 8);
            for (int r = 0; r < 8; ++r) turned[p][r][k] = rows[r], turned[p][r][k + 1] = rows[r + 8];
          }
        }
        for (int64_t b = 0; b < batch; ++b) {
          float extra = 0;
          if (rest_weight != 0)
            for (int64_t k = 0; k < stop / PIECE; ++k) extra += rest_weight * units[b].sums[k];
          for (int r = 0; r < 8; ++r) {
            Digits digits{};
            for (int64_t p = planes; p-- > 0;) {
              if (p + 1 < planes) twice(digits);
              look_up(turned[p][r], units[b].tables, 0, stop, digits);
            }
            finish<false>(digits, looked * stop / 4, weight * units[b].scale, extra, nullptr,
                          sums + b * stride + j - part.first + r * WIDTH);
          }
        }
      }
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t j = part.first; j < part.last; j += TILE) {
      const int64_t count = std::min(TILE, part.last - j);
      float line[TILE];
      for (int64_t c = 0; c < count; ++c)
        line[c] = sums[b * stride + j - part.first + c % 8 * WIDTH + place(c / 8)];
      job.y.write((part.batch_first + b) * w.n + j, line, count);
    }
  return true;
}

inline int64_t tables_scratch(const Job& job, int64_t outputs, int64_t batch) {
  return job.adjoint ? columns_scratch(outputs, batch) : rows_scratch(outputs, batch);
}

inline bool run_tables(const Job& job, const Part& part, void* scratch) {
  return job.adjoint ? tables_adjoint(job, part, scratch) : tables_product(job, part, scratch);
}
