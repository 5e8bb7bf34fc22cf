"""Rows through vLLM engines or an OpenAI-compatible endpoint."""
