"""Family `musicnn`: linear classifiers on features of pretrained MusiCNN networks."""
