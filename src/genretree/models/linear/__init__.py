"""Linear classifiers: logistic regression, and hierarchical classifiers of a genre tree."""
