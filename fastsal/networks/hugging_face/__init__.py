"""Networks of Hugging Face's transformers from local folders."""
