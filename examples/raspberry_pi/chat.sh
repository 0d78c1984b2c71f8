#!/usr/bin/env bash
# From a bare Raspberry Pi OS to a chat about a document:  ./chat.sh manual.pdf [repo/name:file.gguf]
set -euo pipefail
document=${1:?usage: chat.sh DOCUMENT [MODEL]}
model=${2:-Qwen/Qwen2.5-1.5B-Instruct-GGUF:qwen2.5-1.5b-instruct-q4_k_m.gguf}
document=$(realpath "$document")
cd "$(dirname "$0")/../.."

command -v g++ make >/dev/null || sudo apt-get install --yes make g++ python3-venv
make setup
.venv/bin/python -m pip install --quiet '.[chat]'

exec .venv/bin/compresskv chat "$model" --file "$document" \
    --budget "${BUDGET:-1024}" --kv q8_0 --memory "${KV_MEMORY:-300MB}" --threads "$(nproc)"
