/* Energy of a load up to a moment, in closed form. */
#include <math.h>
#include <stdlib.h>

#include "fake.h"

#define HORIZON_S 7200.0

static double uniform(unsigned *state) {
  *state = *state * 1664525u + 1013904223u;
  return ((*state >> 8) + 0.5) / 16777216.0;
}

static double capped(double power_w, double cap_w) { return power_w < cap_w ? power_w : cap_w; }

void load_prepare(load *l) {
  if (l->kind != RANDOM) return;
  int room = 1024;
  double t = 0, high = 0;
  l->edges = malloc(room * sizeof(double));
  l->sums = malloc(room * sizeof(double));
  for (l->edge_count = 0; t < HORIZON_S; l->edge_count++) {
    if (l->edge_count + 1 >= room) {
      room *= 2;
      l->edges = realloc(l->edges, room * sizeof(double));
      l->sums = realloc(l->sums, room * sizeof(double));
    }
    l->edges[l->edge_count] = t;
    l->sums[l->edge_count] = high;
    double stay = -log(uniform(&l->seed)) * l->length[l->edge_count % 2];
    if (l->edge_count % 2) high += stay;
    t += stay;
  }
}

static double periodic(const load *l, double t, double cap_w) {
  double cycle_s = 0, cycle_j = 0, joules = 0;
  for (int i = 0; i < l->parts; i++) {
    cycle_s += l->length[i];
    cycle_j += l->length[i] * capped(l->power[i], cap_w);
  }
  double rest = t - floor(t / cycle_s) * cycle_s;
  joules = floor(t / cycle_s) * cycle_j;
  for (int i = 0; i < l->parts; i++) {
    double here = rest < l->length[i] ? rest : l->length[i];
    joules += here * capped(l->power[i], cap_w);
    rest -= here;
  }
  return joules;
}

static double switching(const load *l, double t, double cap_w) {
  int low = 0, high = l->edge_count - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (l->edges[middle] <= t) low = middle; else high = middle - 1;
  }
  double up = l->sums[low] + (low % 2 ? t - l->edges[low] : 0);
  return up * capped(l->power[1], cap_w) + (t - up) * capped(l->power[0], cap_w);
}

static double ramp(const load *l, double t) {
  double cycle_s = l->length[0], half_s = cycle_s / 2, mean_w = (l->power[0] + l->power[1]) / 2;
  double rise = (l->power[1] - l->power[0]) / half_s, rest = t - floor(t / cycle_s) * cycle_s;
  double joules = floor(t / cycle_s) * cycle_s * mean_w;
  double up = rest < half_s ? rest : half_s;
  joules += l->power[0] * up + rise * up * up / 2;
  if (rest > half_s) joules += l->power[1] * (rest - half_s) - rise * (rest - half_s) * (rest - half_s) / 2;
  return joules;
}

double load_energy(load *l, double t, double cap_w) {
  double joules = 0;
  if (l->kind == PERIODIC) joules = periodic(l, t, cap_w);
  if (l->kind == RANDOM) joules = switching(l, t, cap_w);
  if (l->kind == RAMP) joules = ramp(l, t);
  if (l->wobble_s > 0) joules += l->wobble_w * l->wobble_s / (2 * M_PI) * (1 - cos(2 * M_PI * t / l->wobble_s));
  return joules;
}
