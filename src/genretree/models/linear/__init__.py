"""Linear classifiers: logistic regression, and hierarchical ones over a genre tree."""
