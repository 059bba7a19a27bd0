"""ilm_ray: the InternLM2 pipeline on Ray, from raw Common Crawl to an aligned chat model."""
