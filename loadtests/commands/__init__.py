"""The sub-commands of python -m loadtests, one module each with a main(arguments) that returns the exit status."""
