/* Reads the file that CLISONIX_FAKE_NVML names: one `gpu` line for each GPU, its options on the lines below. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

gpu gpus[MAX_GPUS];
int gpu_count;
double origin_s;

static gpu *add_gpu(void) {
  gpu *g = &gpus[gpu_count];
  memset(g, 0, sizeof *g);
  g->index = gpu_count;
  g->set_limit_ok = 1;
  g->refresh_s = 0.1;
  g->average_s = 1.0;
  g->sample_s = 0.02;
  g->offset_j = 1000.0;
  g->limit_count = 1;
  g->limit_at[0] = -1e18;
  g->limit_mw[0] = 700000;
  g->least_limit_mw = 100000;
  g->load.kind = PERIODIC;
  g->load.parts = 1;
  g->load.power[0] = 500;
  g->load.length[0] = 1;
  snprintf(g->name, sizeof g->name, "Fake GPU");
  snprintf(g->uuid, sizeof g->uuid, "GPU-%04d-fake", gpu_count + 1);
  gpu_count++;
  return g;
}

static void set_load(gpu *g, const char *text) {
  load *l = &g->load;
  char word[32];
  int read = 0;
  double a, b, c, d;
  sscanf(text, "%31s%n", word, &read);
  text += read;
  if (!strcmp(word, "steady") && sscanf(text, "%lf", &a) == 1) {
    l->kind = PERIODIC; l->parts = 1; l->power[0] = a; l->length[0] = 1;
  } else if (!strcmp(word, "square") && sscanf(text, "%lf %lf %lf %lf", &a, &b, &c, &d) == 4) {
    l->kind = PERIODIC; l->parts = 2;
    l->power[0] = b; l->length[0] = c * d; l->power[1] = a; l->length[1] = c * (1 - d);
  } else if (!strcmp(word, "phases")) {
    l->kind = PERIODIC;
    for (l->parts = 0; l->parts < MAX_PARTS && sscanf(text, "%lf %lf%n", &a, &b, &read) == 2; l->parts++, text += read) {
      l->power[l->parts] = a; l->length[l->parts] = b;
    }
  } else if (!strcmp(word, "random") && sscanf(text, "%lf %lf %lf %lf %u", &a, &b, &c, &d, &l->seed) == 5) {
    l->kind = RANDOM; l->power[0] = a; l->power[1] = b; l->length[0] = c; l->length[1] = d;
  } else if (!strcmp(word, "ramp") && sscanf(text, "%lf %lf %lf", &a, &b, &c) == 3) {
    l->kind = RAMP; l->power[0] = a; l->power[1] = b; l->length[0] = c;
  } else {
    fprintf(stderr, "fake nvml: cannot read the load %s%s\n", word, text);
    exit(99);
  }
}

static void add_fault(gpu *g, const char *text) {
  static const char *names[] = {"reset", "stuck", "lose", "error", "slow", "hang"};
  char word[32];
  fault f = {RESET, 0, 1e18, 0};
  /* fault KIND FROM [TO [VALUE]] */
  if (sscanf(text, "%31s %lf %lf %lf", word, &f.from, &f.to, &f.value) < 2 || g->fault_count == MAX_FAULTS) exit(98);
  for (int i = 0; i < 6; i++)
    if (!strcmp(word, names[i])) { f.kind = (fault_kind)i; g->faults[g->fault_count++] = f; return; }
  exit(97);
}

static void set_option(gpu *g, const char *key, const char *text) {
  double v = atof(text);
  if (!strcmp(key, "load")) set_load(g, text);
  else if (!strcmp(key, "fault")) add_fault(g, text);
  else if (!strcmp(key, "name")) snprintf(g->name, sizeof g->name, "%s", text);
  else if (!strcmp(key, "uuid")) snprintf(g->uuid, sizeof g->uuid, "%s", text);
  else if (!strcmp(key, "mig_uuid")) snprintf(g->mig_uuid, sizeof g->mig_uuid, "%s", text);
  else if (!strcmp(key, "mig")) g->mig = (int)v;
  else if (!strcmp(key, "set_limit_ok")) g->set_limit_ok = (int)v;
  else if (!strcmp(key, "limit_w")) g->limit_mw[0] = (unsigned)(1000 * v);
  else if (!strcmp(key, "min_limit_w")) g->least_limit_mw = (unsigned)(1000 * v);
  else if (!strcmp(key, "limit_file")) snprintf(g->limit_file, sizeof g->limit_file, "%s", text);
  else if (!strcmp(key, "refresh_s")) g->refresh_s = v;
  else if (!strcmp(key, "phase_s")) g->phase_s = v;
  else if (!strcmp(key, "jitter_s")) g->jitter_s = v;
  else if (!strcmp(key, "average_s")) g->average_s = v;
  else if (!strcmp(key, "sample_s")) g->sample_s = v;
  else if (!strcmp(key, "sample_average_s")) g->sample_average_s = v;
  else if (!strcmp(key, "offset_j")) g->offset_j = v;
  else if (!strcmp(key, "delay_s")) g->delay_s = v;
  else if (!strcmp(key, "wobble")) sscanf(text, "%lf %lf", &g->load.wobble_w, &g->load.wobble_s);
  else { fprintf(stderr, "fake nvml: unknown option %s\n", key); exit(96); }
}

/* The driver outlives every process that asks it: with `limit_file` a limit stays for the next one. */
static void read_limit(gpu *g) {
  FILE *file = g->limit_file[0] ? fopen(g->limit_file, "r") : NULL;
  unsigned mw;
  if (file && fscanf(file, "%u", &mw) == 1) {
    g->limit_at[g->limit_count] = -1e17;
    g->limit_mw[g->limit_count++] = mw;
  }
  if (file) fclose(file);
}

int set_limit(gpu *g, double t, unsigned mw) {
  if (g->limit_count == MAX_LIMITS) return 0;
  g->limit_at[g->limit_count] = t;
  g->limit_mw[g->limit_count++] = mw;
  FILE *file = g->limit_file[0] ? fopen(g->limit_file, "w") : NULL;
  if (file) {
    fprintf(file, "%u\n", mw);
    fclose(file);
  }
  return 1;
}

void read_config(void) {
  if (gpu_count) return;
  const char *path = getenv("CLISONIX_FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[512], key[32];
  gpu *g = NULL;
  origin_s = 0;
  while (file && fgets(line, sizeof line, file)) {
    int read = 0;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, " %31s %n", key, &read) != 1 || key[0] == '#') continue;
    if (!strcmp(key, "origin_s")) origin_s = atof(line + read);
    else if (!strcmp(key, "gpu")) g = gpu_count < MAX_GPUS ? add_gpu() : g;
    else if (g) set_option(g, key, line + read);
  }
  if (file) fclose(file);
  if (!path) {
    add_gpu();
    add_gpu()->load.power[0] = 100;
  }
  for (int i = 0; i < gpu_count; i++) {
    load_prepare(&gpus[i].load);
    read_limit(&gpus[i]);
  }
}
