"""Family `boosting`: principal components and gradient-boosted trees."""
