"""What a version is worth: every figure, plot and sentence that is published with it, measured on its graph."""
