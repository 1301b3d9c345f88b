"""The training job: data -> train -> calibrate -> evaluate -> export -> publish."""
