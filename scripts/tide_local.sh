#!/usr/bin/env bash
# A coordinator and four sites on this machine, over loopback, on a small real training; one site is killed without
# warning and started again. Prints digests, bytes and joules per sync; fails if any two states differ.
#
#   scripts/tide_local.sh [FOLDER]
#
# ROUNDS (30) and INNER (20) set the length, PORT (7433) the place. With CLISONIX_DATA the sites train on the people of
# `watch`, otherwise on made-up signals.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python}
port=${PORT:-7433} rounds=${ROUNDS:-30} inner=${INNER:-20} sites=4
data=()
[[ -n "${CLISONIX_DATA:-}" ]] && data=(--data "$CLISONIX_DATA")
export OMP_NUM_THREADS=1
mkdir -p "$folder"
rm -f "$folder"/*.jsonl "$folder"/tide.log
names=(site0 site1 site2 site3)
for name in "${names[@]}"; do
    [[ -f "$folder/keys/$name.key" ]] || "$python" -m clisonix.tide keys "$name" --folder "$folder/keys" >/dev/null
done
"$python" "$here/scripts/bench/tide_site.py" start "$folder/start.safetensors"

rules="rounds: $rounds
heartbeat_s: 2
rules: {min_sites: $sites, timeout_s: 30, resend_s: 2, patience: 1000, up: {form: sparse, density: 0.03, bits: 2}, down: {form: sparse, density: 0.1, bits: 2}}"
printf '%s\n' "$rules" "listen: 127.0.0.1:$port" "keys: keys" "log: tide.log" "start: start.safetensors" \
    "report: rounds.jsonl" "result: result.safetensors" "linger_s: 30" >"$folder/coordinator.yaml"
for name in "${names[@]}"; do
    printf '%s\n' "$rules" "site: $name" "coordinator: 127.0.0.1:$port" "key: keys/$name.key" "inner_steps: $inner" \
        "give_up_s: 120" >"$folder/$name.yaml"
done

declare -A running=()
stop() { for pid in "${running[@]}"; do kill "$pid" 2>/dev/null || true; done; }
trap stop EXIT
begin_site() {
    "$python" "$here/scripts/bench/tide_site.py" train "$folder/site$1.yaml" "$1" "$sites" "$folder/site$1.jsonl" \
        "${data[@]}" >>"$folder/site$1.out" 2>&1 &
    running[site$1]=$!
}
committed() { if [[ -f "$folder/rounds.jsonl" ]]; then wc -l <"$folder/rounds.jsonl"; else echo 0; fi; }

"$python" -m clisonix.tide coordinate "$folder/coordinator.yaml" >"$folder/coordinator.out" 2>&1 &
running[coordinator]=$!
for number in 0 1 2 3; do begin_site "$number"; done

for _ in $(seq 1200); do
    (($(committed) >= rounds / 3)) && break
    kill -0 "${running[coordinator]}" || { cat "$folder/coordinator.out" >&2; exit 1; }
    sleep 0.1
done
kill -KILL "${running[site2]}"
wait "${running[site2]}" 2>/dev/null || true
echo "killed site2 after round $(committed)"
sleep 3
begin_site 2
echo "started it again after round $(committed)"

failed=0
for name in "${names[@]}" coordinator; do
    wait "${running[$name]}" || { failed=1; echo "$name failed:" >&2; tail -5 "$folder/$name.out" >&2; }
    unset "running[$name]"
done
"$python" "$here/scripts/bench/tide_local.py" "$folder" "$sites" || failed=1
exit "$failed"
