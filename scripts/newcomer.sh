#!/usr/bin/env bash
# Walks the way of a newcomer in a new folder with a new environment: the README's first result, every step of the
# tutorial with its own CSV files, to a compressed and measured model. Prints a page of Markdown, docs/newcomer.md.
# Usage: scripts/newcomer.sh > docs/newcomer.md
#   PYTHON=python3.12    the interpreter that makes the environment
#   CLISONIX_DATA=DIR    recordings that are there already, instead of fetching them
# Needs Python >= 3.11, pip and git; the network, unless pip is configured to do without and recordings are there.
set -euo pipefail
_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_home="$(mktemp -d)"
# A step that fails ends the walk; what it said is all there is to find out why.
trap 'status=$?; [ "$status" = 0 ] || cat "$_home/out" >&2; rm -rf "$_home"; exit "$status"' EXIT
_data="${CLISONIX_DATA:-}"
unset VIRTUAL_ENV PYTHONPATH CLISONIX_DATA CLISONIX_ZOO
export NO_COLOR=1 TERM=dumb COLUMNS=100 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# What is tracked or new, as a clone of it would be.
mkdir "$_home/clisonix" "$_home/first" "$_home/steps"
git -C "$_root" ls-files -co --exclude-standard -z | (cd "$_root" && while IFS= read -r -d '' f; do
    if [ -e "$f" ] || [ -L "$f" ]; then printf '%s\0' "$f"; fi
done) | tar -C "$_root" --null -T - -cf - | tar -C "$_home/clisonix" -xf -

# The blocks of the tutorial, one file each: NUMBER.LANGUAGE, those that install or fetch NUMBER.not.
"${PYTHON:-python3}" - "$_root/docs/tutorial.md" "$_home/steps" <<'PY'
import pathlib, re, sys
page, folder = map(pathlib.Path, sys.argv[1:])
found = re.findall(r"(<!-- not run: .+? -->\n)?^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
for number, (reason, language, text) in enumerate(found):
    (folder / f"{number:02}.{'not' if reason else language}").write_text(text)
PY

# Nothing of this machine: its folders, its user, where pip looks for packages.
_clean() {
    sed -u -e "s#${_data:-/nowhere/at/all}#~/recordings#g" -e "s#$_home#~#g" -e "s#$HOME/#~/#g" \
        -e "s#\b$(id -un)@#newcomer@#g" -e "s#\b$(uname -n)\b#machine#g" -e '/^WARNING: /d' -e '/^Looking in /d' \
        -e 's/[[:space:]]*$//' 2>/dev/null
}
_said() { printf '\n```console\n'; sed -e '1s/^/$ /' -e '2,$s/^/> /' "$1"; }
# Runs a step in this shell, so that what it exports stays; its output follows, with the seconds it took.
_step() {
    local file="$1" begin="$SECONDS" status=0
    _said "$file" | _clean
    # `doctor` says with 1 that something could be better.
    if grep -q 'clisonix doctor' "$file"; then set +e; fi
    . "$file" > "$_home/out" 2>&1
    status=$?
    set -e
    _clean < "$_home/out"
    printf '```\n\n%s s' "$((SECONDS - begin))"
    [ "$status" = 0 ] && printf '.\n' || printf ', exit code %s.\n' "$status"
}
_write() { cat > "$_home/step"; }

cat <<'MD'
# A newcomer's first half hour

Written by `scripts/newcomer.sh` (Linux, Python and pip; nothing of Clisonix installed before): the first result of the README, then every
step of the [tutorial](tutorial.md), with what came out and how long it took. Paths are shortened and warnings of pip left out; nothing else is edited. The
machine was shared with other work: for times that compare, see [the figures](results/README.md).

## The README's first result
MD
cd "$_home/clisonix"
_write <<'SH'
./scripts/quickstart
SH
_step "$_home/step"
_write <<'SH'
. .venv/bin/activate
pip install --quiet --editable '.[data,demo]' --constraint scripts/constraints.txt
SH
_step "$_home/step"

printf '\n## The tutorial, in a folder of its own\n'
cd "$_home/first"
if [ -n "$_data" ]; then
    export CLISONIX_DATA="$_data"
    printf '\n`CLISONIX_DATA` names a folder with recordings that were fetched before, so its `clisonix data fetch` is left out.\n'
fi
for file in "$_home"/steps/*; do
    case "$file" in
    *.bash) _step "$file" ;;
    *.python)
        { echo "python3 - <<'PY'"; cat "$file"; echo PY; } > "$_home/step"
        _step "$_home/step"
        ;;
    *.yaml)
        name="$(sed -n '1s/^# file: //p' "$file")"
        { echo "cat > $name <<'YAML'"; cat "$file"; echo YAML; } > "$_home/step"
        _step "$_home/step"
        ;;
    *.not)
        if [ -z "$_data" ] && ! grep -q 'pip install' "$file"; then _step "$file"; fi
        ;;
    esac
done
_write <<'SH'
ls runs/walking runs/mine
clisonix report runs/walking --md
SH
_step "$_home/step"
