/* A stand-in for libnvidia-ml.so.1 whose power is known at every moment; see README.md beside this file. */
#ifndef FAKE_H
#define FAKE_H

#define MAX_GPUS 64
#define MAX_PARTS 32
#define MAX_FAULTS 16
#define MAX_LIMITS 64

typedef enum { PERIODIC, RANDOM, RAMP } load_kind;

/* Power over time. PERIODIC: power[i] watts for length[i] seconds, again and again. RANDOM: power[0] and power[1] in
   turn, for random times with means length[0] and length[1]. RAMP: from power[0] up to power[1] and back within
   length[0]. `wobble_w` is the amplitude of a sine on top. */
typedef struct {
  load_kind kind;
  int parts;
  double power[MAX_PARTS], length[MAX_PARTS];
  unsigned seed;
  double wobble_w, wobble_s;
  double *edges; /* of RANDOM: when it switches, ascending */
  double *sums;  /* seconds spent at power[1] until each edge */
  int edge_count;
} load;

typedef enum { RESET, STUCK, LOSE, ERROR, SLOW, HANG } fault_kind;

/* RESET at `from`; STUCK from..to, catching up afterwards, LOSE without; ERROR code `value`; SLOW by `value` seconds. */
typedef struct {
  fault_kind kind;
  double from, to, value;
} fault;

typedef struct {
  int index, mig, is_instance, set_limit_ok;
  char name[96], uuid[96], mig_uuid[96], limit_file[256];
  unsigned least_limit_mw;
  double refresh_s, phase_s, jitter_s, average_s, sample_s, sample_average_s, offset_j, delay_s;
  load load;
  fault faults[MAX_FAULTS];
  int fault_count;
  double limit_at[MAX_LIMITS];
  unsigned limit_mw[MAX_LIMITS];
  int limit_count;
} gpu;

/* load.c */
double load_energy(load *l, double t, double cap_w);
void load_prepare(load *l);

/* config.c */
extern gpu gpus[MAX_GPUS];
extern int gpu_count;
extern double origin_s;
void read_config(void);
int set_limit(gpu *g, double t, unsigned mw); /* 0 if there is room for no more */

/* truth.c: what the driver would know. Times are CLOCK_MONOTONIC seconds. */
double fake_now(void);
double fake_wall_ahead(void);
void fake_set_time(double t);                 /* a clock that stands still between calls; negative: the real one */
double fake_energy_j(int index, double t);    /* truth: joules since the origin */
double tick_before(const gpu *g, double t);
unsigned long long counter_mj(gpu *g, double t);
double mean_power_w(gpu *g, double t, double over_s);
int fault_code(gpu *g, double t);             /* sleeps if the fault is a slow call or a hang */

#endif
