"""Web text: Format, Clean, Dedup, Safe, High-quality (InternLM2 report section 3.1); `pipeline.run_text` runs it."""
