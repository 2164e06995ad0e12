#!/bin/sh
# Written by `agentforge deploy aj deploy`; change the recipe, not this.
exec vllm serve runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-merged \
  --served-model-name AJ-DeepSeekR1Qwen32B-v2.0.0 \
  --max-model-len 8192 \
  --host 127.0.0.1 \
  --port 8000 \
  --enable-auto-tool-choice \
  --tool-call-parser hermes
