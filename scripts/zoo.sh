#!/usr/bin/env bash
# Makes the folder of model libraries that tests/compress/test_zoo.py builds its models with, and names it.
# Usage: CLISONIX_ZOO="$(scripts/zoo.sh [folder])"; the folder is `.zoo` beside the README unless given.
#
# These libraries stay out of the environment: torchvision and torchaudio are built for one build of torch and
# do not load beside another (such as one for CPUs), and what finds them installed imports them and fails.
# For the same reason nothing is installed beside what is named here: a dependency would bring a second torch.
set -euo pipefail
_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_pins="$_root/scripts/constraints.txt"
_folder="${1:-$_root/.zoo}"
_packages=(
    timm braindecode torchvision torchaudio pillow
    # What braindecode imports.
    mne mne-bids h5py scikit-learn joblib cloudpickle threadpoolctl narwhals skorch tabulate torchinfo wfdb docstring-inheritance
    decorator lazy-loader einops linear-attention-transformer axial-positional-embedding colt5-attention
    hyper-connections linformer local-attention product-key-memory torch-einops-utils
    # What these share with the development environment is found there: numpy, scipy, pandas, pooch, pydantic.
)

if [ -z "${VIRTUAL_ENV:-}" ]; then
    . "$_root/scripts/setup.sh" dev
fi
_wanted="$(cat "${BASH_SOURCE[0]}" "$_pins" | sha256sum)"
if [ "$(cat "$_folder/.made" 2>/dev/null)" != "$_wanted" ]; then
    echo "fetching the model libraries of the zoo test" >&2
    rm -rf "$_folder.part"
    python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary :all: \
        --constraint "$_pins" --target "$_folder.part" "${_packages[@]}" >&2
    # Compiled for a torch with CUDA: the import of torchaudio loads them if they are there and does without if not.
    rm -f "$_folder.part"/torchaudio/lib/*.so
    echo "$_wanted" > "$_folder.part/.made"
    rm -rf "$_folder"
    mv "$_folder.part" "$_folder"
fi
cd "$_folder" && pwd
