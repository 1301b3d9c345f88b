"""The service: HTTP -> decode -> preprocess -> batch -> infer -> interpret -> response."""
