#!/usr/bin/env bash
# Makes an environment of the lowest versions that setup.cfg allows in FOLDER and runs the fast tests there.
#
#     [PYTHON=python3.10] scripts/oldest_environment.sh FOLDER [ARGUMENT OF PYTEST ...]
#
# A folder that holds the environment is used again, and brought to these versions. On Linux the package index gives
# PyTorch with CUDA: some 3 GB to download and 7 GB on disk.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: [PYTHON=python3.10] $0 FOLDER [ARGUMENT OF PYTEST ...]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$here/.."

"${PYTHON:-python3.10}" -m venv "$folder"
python=$folder/bin/python
[ -x "$python" ] || python=$folder/Scripts/python
"$python" -m pip install --quiet --constraint "$here/oldest.txt" --editable ".[test]"
"$python" -m pip list
"$python" -m pytest "$@"
