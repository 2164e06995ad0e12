#!/bin/sh
# Written by `agentforge deploy aj deploy`; change the recipe, not this.
exec vllm serve deepseek-ai/DeepSeek-R1-Distill-Qwen-32B \
  --enable-lora \
  --max-lora-rank 64 \
  --lora-modules AJ-DeepSeekR1Qwen32B-v2.0.0=runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-lora \
  --tokenizer runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-lora \
  --chat-template runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-lora/chat_template.jinja \
  --max-model-len 8192 \
  --host 127.0.0.1 \
  --port 8000 \
  --enable-auto-tool-choice \
  --tool-call-parser hermes
