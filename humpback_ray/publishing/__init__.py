"""A finished run on the Hugging Face hub: cards of its models and its data, and their upload."""
