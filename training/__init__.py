"""The training job: data -> train -> calibrate -> export -> evaluate -> publish."""
