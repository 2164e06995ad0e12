#!/bin/sh
# Written by `agentforge deploy aj deploy`; change the recipe, not this.
exec llama-server \
  --model runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-q4km/AJ-DeepSeekR1Qwen32B-v2.0.0-q4km.gguf \
  --alias AJ-DeepSeekR1Qwen32B-v2.0.0 \
  --jinja \
  --ctx-size 8192 \
  --n-gpu-layers 99 \
  --host 127.0.0.1 \
  --port 8081
