"""Safe and High-quality: text classifiers whose score is the probability of GOOD (report section 3.1).

The report fine-tunes BERT on labelled texts. Two back ends stand behind one interface here: a linear model over hashed
n-grams (`linear.py`: thousands of documents a second on one core, no download) and the report's own kind (`bert.py`).
"""

NAMES = ("toxicity", "pornography", "advertisement", "fluency")
