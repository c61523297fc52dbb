/* The clock, the true energy, and what a counter with ticks and faults makes of it. */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"

static double still_s = -1;

static double clock_s(clockid_t which) {
  struct timespec t;
  clock_gettime(which, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

double fake_now(void) { return still_s >= 0 ? still_s : clock_s(CLOCK_MONOTONIC); }
double fake_wall_ahead(void) { return clock_s(CLOCK_REALTIME) - clock_s(CLOCK_MONOTONIC); }
void fake_set_time(double t) { still_s = t; }

double fake_energy_j(int index, double t) {
  read_config();
  gpu *g = &gpus[index];
  double joules = 0;
  t -= origin_s;
  for (int i = 0; i < g->limit_count; i++) {
    double from = g->limit_at[i] - origin_s, to = i + 1 < g->limit_count ? g->limit_at[i + 1] - origin_s : 1e18;
    if (from < 0) from = 0;
    if (to > t) to = t;
    if (to > from) {
      double cap_w = g->limit_mw[i] / 1000.0;
      joules += load_energy(&g->load, to, cap_w) - load_energy(&g->load, from, cap_w);
    }
  }
  return joules;
}

/* Ticks stray from their grid by up to `jitter_s`, the same way at every call. */
static double tick_time(const gpu *g, double k) {
  double stray = sin(k * 12.9898 + g->index * 78.233) * 43758.5453;
  return origin_s + g->phase_s + k * g->refresh_s + g->jitter_s * (2 * (stray - floor(stray)) - 1);
}

double tick_before(const gpu *g, double t) {
  double k = floor((t - origin_s - g->phase_s) / g->refresh_s) + 1;
  while (tick_time(g, k) > t) k--;
  return tick_time(g, k);
}

unsigned long long counter_mj(gpu *g, double t) {
  double at = tick_before(g, t) - g->delay_s, base = -g->offset_j;
  for (int i = 0; i < g->fault_count; i++) {
    const fault *f = &g->faults[i];
    double from = origin_s + f->from, to = origin_s + f->to;
    if (f->kind == RESET && t >= from) {
      base = fake_energy_j(g->index, from);
      if (at < from) at = from;
    }
    if ((f->kind == STUCK || f->kind == LOSE) && t >= from) {
      double frozen = tick_before(g, from);
      if (t < to) at = frozen;
      else if (f->kind == LOSE) base += fake_energy_j(g->index, tick_before(g, to)) - fake_energy_j(g->index, frozen);
    }
  }
  return (unsigned long long)((fake_energy_j(g->index, at) - base) * 1000.0 + 1e-6);
}

double mean_power_w(gpu *g, double t, double over_s) {
  if (over_s <= 0) over_s = 1e-4;
  return (fake_energy_j(g->index, t) - fake_energy_j(g->index, t - over_s)) / over_s;
}

int fault_code(gpu *g, double t) {
  int code = 0;
  for (int i = 0; i < g->fault_count; i++) {
    const fault *f = &g->faults[i];
    if (t < origin_s + f->from || t >= origin_s + f->to) continue;
    if (f->kind == ERROR) code = (int)f->value;
    if (f->kind == SLOW && still_s < 0) usleep((useconds_t)(1e6 * f->value));
    while (f->kind == HANG) pause();
  }
  return code;
}
