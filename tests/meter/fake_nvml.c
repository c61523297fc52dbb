/* A stand-in for libnvidia-ml.so.1: two GPUs that draw exactly 500 W and 100 W, with a counter that moves every
   100 ms, as NVIDIA's do. It lets the real Python binding run where there is no GPU. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define OK 0
#define INVALID 2
#define NOT_SUPPORTED 3
static int gpus[2] = {0, 1};

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return OK; }
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Invalid Argument"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **device) {
  if (i > 1) return INVALID;
  *device = &gpus[i];
  return OK;
}
int nvmlDeviceGetIndex(void *device, unsigned int *index) { *index = *(int *)device; return OK; }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  (void)device;
  snprintf(name, length, "Fake GPU");
  return OK;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
  snprintf(uuid, length, "GPU-%04d-fake", *(int *)device + 1);
  return OK;
}
int nvmlDeviceGetPowerManagementLimit(void *device, unsigned int *mw) { (void)device; *mw = 700000; return OK; }
int nvmlDeviceGetMigMode(void *device, unsigned int *now, unsigned int *later) {
  (void)device; (void)now; (void)later;
  return NOT_SUPPORTED;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  double tick_s = floor((t.tv_sec + 1e-9 * t.tv_nsec) / 0.1) * 0.1;
  *mj = (unsigned long long)(tick_s * (*(int *)device == 0 ? 500e3 : 100e3));
  return OK;
}
