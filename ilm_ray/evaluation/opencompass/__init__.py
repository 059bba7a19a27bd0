"""Code that runs inside OpenCompass's own environment. Nothing else of the project imports this folder."""
