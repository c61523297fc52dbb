# Sourced by the other scripts: leaves an active virtual environment with the pinned dependencies.
# An environment that is active already is used as it is found, else `.venv` is made beside the README.
# Usage: . scripts/setup.sh [extra ...]

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_pins="$_root/scripts/constraints.txt"

_python="${PYTHON:-python3}"
if [ -n "${VIRTUAL_ENV:-}" ]; then
    _python="$VIRTUAL_ENV/bin/python"
fi
if ! "$_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; name one in PYTHON, e.g. PYTHON=python3.12 $0" >&2
    exit 2
fi
if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x "$_root/.venv/bin/python" ]; then
        echo "making a virtual environment in .venv" >&2
        "$_python" -m venv "$_root/.venv"
    fi
    . "$_root/.venv/bin/activate"
fi

# Reinstall only when what is to be installed has changed.
_extras="$*"
_wanted="$(python - "$_pins" "$_root/pyproject.toml" "$_root" "$_extras" <<'PY'
import hashlib, pathlib, sys
pins, project, *rest = sys.argv[1:]
parts = [pathlib.Path(p).read_bytes() for p in (pins, project)] + [r.encode() for r in rest]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PY
)"
_stamp="$VIRTUAL_ENV/.clisonix-${_extras// /-}"
if [ "$(cat "$_stamp" 2>/dev/null)" != "$_wanted" ]; then
    echo "installing the pinned dependencies" >&2
    _pip() { python -m pip install --quiet --disable-pip-version-check --constraint "$_pins" "$@"; }
    # torch first and pinned: a range would let pip take a newer build with gigabytes of another platform.
    _pip "$(grep '^torch==' "$_pins")"
    # Of seglearn only a data file is wanted, so what it depends on is not installed; pip's complaint about that would
    # look like a failure.
    _pip --editable "$_root${_extras:+[${_extras// /,}]}" 2> >(grep -v -e "pip's dependency resolver" -e '^seglearn .* requires' >&2)
    _pip --no-deps seglearn
    echo "$_wanted" > "$_stamp"
fi
