"""Labelled corpora: manifests, data sets, splits and stores of prepared images."""
