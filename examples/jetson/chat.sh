#!/usr/bin/env bash
# From a bare JetPack image to a chat about a document, on the GPU:  ./chat.sh manual.pdf [repo/name:file.gguf]
set -euo pipefail
document=${1:?usage: chat.sh DOCUMENT [MODEL]}
model=${2:-Qwen/Qwen2.5-3B-Instruct-GGUF:qwen2.5-3b-instruct-q4_k_m.gguf}
document=$(realpath "$document")
cd "$(dirname "$0")/../.."

export PATH=/usr/local/cuda/bin:$PATH
command -v nvcc >/dev/null || { echo "nvcc is missing: sudo apt-get install nvidia-jetpack" >&2; exit 1; }
command -v g++ make >/dev/null || sudo apt-get install --yes make g++ python3-venv
CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCH:-87}" make setup
.venv/bin/python -m pip install --quiet '.[chat]'

exec .venv/bin/compresskv chat "$model" --file "$document" \
    --budget "${BUDGET:-1024}" --gpu-layers -1 --memory "${KV_MEMORY:-1GB}"
