"""Models, predictions, explanations and jobs of a service, without HTTP."""
