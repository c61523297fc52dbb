/* The functions of NVML that this project, CodeCarbon and Zeus call. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fake.h"

#define OK 0
#define INVALID 2
#define NOT_SUPPORTED 3
#define NO_PERMISSION 4
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define API __attribute__((visibility("default")))

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; } value;
typedef struct { unsigned long long stamp_us; value v; } sample;
typedef struct { unsigned field, scope; long long stamp_us, latency_us; int kind, code; value v; } field_value;

static gpu instances[MAX_GPUS]; /* MIG instances, one for each GPU at most */

static unsigned long long wall_us(double t) { return (unsigned long long)(1e6 * (t + fake_wall_ahead())); }

API int nvmlInitWithFlags(unsigned flags) { (void)flags; read_config(); return OK; }
API int nvmlInit_v2(void) { read_config(); return OK; }
API int nvmlShutdown(void) { return OK; }
API const char *nvmlErrorString(int code) {
  switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    case 999: return "Unknown Error";
    default: return "Invalid Argument";
  }
}
API int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "999.99"); return OK; }
API int nvmlSystemGetNVMLVersion(char *text, unsigned length) { snprintf(text, length, "99.999.99"); return OK; }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return OK; }
API int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)gpu_count; return OK; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned i, gpu **device) {
  if (i >= (unsigned)gpu_count) return INVALID;
  *device = &gpus[i];
  return OK;
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, gpu **device) {
  for (int i = 0; i < gpu_count; i++) {
    if (!strcmp(uuid, gpus[i].uuid)) { *device = &gpus[i]; return OK; }
    if (gpus[i].mig_uuid[0] && !strcmp(uuid, gpus[i].mig_uuid)) {
      instances[i] = gpus[i];
      instances[i].is_instance = 1;
      *device = &instances[i];
      return OK;
    }
  }
  return NOT_FOUND;
}
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu *device, gpu **parent) {
  if (!device->is_instance) return INVALID;
  *parent = &gpus[device->index];
  return OK;
}
API int nvmlDeviceGetIndex(gpu *g, unsigned *index) { *index = (unsigned)g->index; return OK; }
API int nvmlDeviceGetName(gpu *g, char *text, unsigned length) { snprintf(text, length, "%s", g->name); return OK; }
API int nvmlDeviceGetUUID(gpu *g, char *text, unsigned length) {
  snprintf(text, length, "%s", g->is_instance ? g->mig_uuid : g->uuid);
  return OK;
}
API int nvmlDeviceGetMigMode(gpu *g, unsigned *now, unsigned *later) {
  if (!g->mig && !g->mig_uuid[0]) return NOT_SUPPORTED;
  *now = *later = (unsigned)g->mig;
  return OK;
}
API int nvmlDeviceGetTotalEnergyConsumption(gpu *g, unsigned long long *mj) {
  int code = fault_code(g, fake_now());
  if (code) return code;
  *mj = counter_mj(g, fake_now());
  return OK;
}
API int nvmlDeviceGetPowerUsage(gpu *g, unsigned *mw) {
  int code = fault_code(g, fake_now());
  if (code) return code;
  *mw = (unsigned)(1000 * mean_power_w(g, tick_before(g, fake_now()), g->average_s));
  return OK;
}
/* With `samples` null the room needed; the buffer holds the last 120. */
API int nvmlDeviceGetSamples(gpu *g, int kind, unsigned long long seen_us, int *value_kind, unsigned *count, sample *samples) {
  double now = fake_now();
  int code = fault_code(g, now);
  if (code) return code;
  if (kind != 0 || g->sample_s <= 0) return NOT_SUPPORTED;
  *value_kind = 1;
  if (!samples) { *count = 120; return OK; }
  unsigned found = 0;
  for (double k = floor(now / g->sample_s) - 119; k <= floor(now / g->sample_s) && found < *count; k++) {
    double t = k * g->sample_s;
    if (wall_us(t) <= seen_us + 100 || t - g->sample_average_s < origin_s) continue;
    samples[found].stamp_us = wall_us(t);
    samples[found++].v.ui = (unsigned)(1000 * mean_power_w(g, t, g->sample_average_s));
  }
  *count = found;
  return found ? OK : NOT_FOUND;
}
API int nvmlDeviceGetFieldValues(gpu *g, int count, field_value *values) {
  double now = fake_now();
  int code = fault_code(g, now);
  for (int i = 0; i < count; i++) {
    field_value *f = &values[i];
    f->stamp_us = (long long)wall_us(now);
    f->latency_us = 20;
    f->code = code;
    if (code) continue;
    if (f->field == 83) { f->kind = 3; f->v.ull = counter_mj(g, now); }
    else if (f->field == 186) { f->kind = 1; f->v.ui = (unsigned)(1000 * mean_power_w(g, tick_before(g, now), 0.025)); }
    else if (f->field == 185) { f->kind = 1; f->v.ui = (unsigned)(1000 * mean_power_w(g, tick_before(g, now), 1.0)); }
    else f->code = NOT_SUPPORTED;
  }
  return OK;
}

/* Power limits */
API int nvmlDeviceGetPowerManagementMode(gpu *g, unsigned *mode) { (void)g; *mode = 1; return OK; }
API int nvmlDeviceGetPowerManagementLimit(gpu *g, unsigned *mw) { *mw = g->limit_mw[g->limit_count - 1]; return OK; }
API int nvmlDeviceGetEnforcedPowerLimit(gpu *g, unsigned *mw) { return nvmlDeviceGetPowerManagementLimit(g, mw); }
API int nvmlDeviceGetPowerManagementDefaultLimit(gpu *g, unsigned *mw) { *mw = g->limit_mw[0]; return OK; }
API int nvmlDeviceGetPowerManagementLimitConstraints(gpu *g, unsigned *low, unsigned *high) {
  *low = g->least_limit_mw;
  *high = g->limit_mw[0];
  return OK;
}
API int nvmlDeviceSetPowerManagementLimit(gpu *g, unsigned mw) {
  if (!g->set_limit_ok) return NO_PERMISSION;
  if (mw < g->least_limit_mw || mw > g->limit_mw[0]) return INVALID;
  return set_limit(g, fake_now(), mw) ? OK : INSUFFICIENT_SIZE;
}

/* What the peers ask about beside energy */
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
API int nvmlDeviceGetMemoryInfo(gpu *g, memory *m) { (void)g; m->total = 80ull << 30; m->used = 1ull << 30; m->free = m->total - m->used; return OK; }
API int nvmlDeviceGetMemoryInfo_v2(gpu *g, memory_v2 *m) { (void)g; m->total = 80ull << 30; m->used = 1ull << 30; m->reserved = 0; m->free = m->total - m->used; return OK; }
API int nvmlDeviceGetTemperature(gpu *g, int sensor, unsigned *celsius) { (void)g; (void)sensor; *celsius = 50; return OK; }
API int nvmlDeviceGetUtilizationRates(gpu *g, unsigned *rates) { (void)g; rates[0] = 90; rates[1] = 10; return OK; }
API int nvmlDeviceGetComputeMode(gpu *g, int *mode) { (void)g; *mode = 0; return OK; }
API int nvmlDeviceGetArchitecture(gpu *g, unsigned *architecture) { (void)g; *architecture = 9; return OK; }
API int nvmlDeviceGetCudaComputeCapability(gpu *g, int *major, int *minor) { (void)g; *major = 9; *minor = 0; return OK; }
API int nvmlDeviceGetPersistenceMode(gpu *g, unsigned *mode) { (void)g; *mode = 1; return OK; }
API int nvmlDeviceSetPersistenceMode(gpu *g, unsigned mode) { (void)g; (void)mode; return OK; }
API int nvmlDeviceGetClockInfo(gpu *g, int kind, unsigned *mhz) { (void)g; (void)kind; *mhz = 1500; return OK; }
API int nvmlDeviceGetCurrentClocksEventReasons(gpu *g, unsigned long long *mask) { (void)g; *mask = 0; return OK; }
API int nvmlDeviceGetCurrentClocksThrottleReasons(gpu *g, unsigned long long *mask) { (void)g; *mask = 0; return OK; }
API int nvmlDeviceGetComputeRunningProcesses_v3(gpu *g, unsigned *count, void *list) { (void)g; (void)list; *count = 0; return OK; }
API int nvmlDeviceGetGraphicsRunningProcesses_v3(gpu *g, unsigned *count, void *list) { (void)g; (void)list; *count = 0; return OK; }
API int nvmlDeviceGetComputeRunningProcesses_v2(gpu *g, unsigned *count, void *list) { (void)g; (void)list; *count = 0; return OK; }
API int nvmlDeviceGetGraphicsRunningProcesses_v2(gpu *g, unsigned *count, void *list) { (void)g; (void)list; *count = 0; return OK; }
