"""The only modules that import vllm, deepspeed or torch."""
