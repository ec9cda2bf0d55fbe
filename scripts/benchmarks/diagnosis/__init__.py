"""Does the monitor see what goes wrong, say the right thing in time, and propose what helps?

`families` trains networks that fail and near-misses that do not; `truth` says per seed, from the end of training and
from measurements of its own, which is which and what is wrong; `rules` are those of AUTOTRAINER and DeepDiagnosis;
`runner` runs all of them over the same fits. docs/diagnosis.md has the figures.
"""
