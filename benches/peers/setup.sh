#!/bin/sh
# Makes the Python environment of the peers in target/peers. PYTHON names the interpreter (python3.11).
#
#     benches/peers/setup.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/peers
"${PYTHON:-python3.11}" -m venv "$venv"
"$venv/bin/python" -m pip install -r "$here/requirements.txt"
"$venv/bin/python" -c 'import torch, torchtune; print("torch", torch.__version__, "torchtune", torchtune.__version__)'
