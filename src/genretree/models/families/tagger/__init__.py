"""Family `tagger`: genres from the tags of the pretrained audio tagger mn04, for any tree, without training."""
