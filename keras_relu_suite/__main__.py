"""`python -m keras_relu_suite`, the same as `krs`."""

from keras_relu_suite.cli import main

main()
